// The two forms of patched_attention that a backend registers: one returns a fresh z, one writes to `out`.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "patched_attention/patched_attention_checks.h"

namespace pilot {

// Backend::kDtypes are those that it computes in; Backend::attend_into(arguments, scale, z) computes z, of any size.
template <typename Backend>
struct Binding {
  static at::Tensor patched_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& source, const at::Tensor& parent, const at::Tensor& source_row,
                                      const at::Tensor& replace, std::optional<double> scale) {
    const Arguments a{q, k, v, source, parent, source_row, replace};
    check_arguments(a, scale, Backend::kDtypes);
    at::Tensor z = empty_z(a);
    Backend::attend_into(a, scale, z);
    return z;
  }

  static void patched_attention_out(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const at::Tensor& source, const at::Tensor& parent, const at::Tensor& source_row,
                                    const at::Tensor& replace, std::optional<double> scale, at::Tensor out) {
    const Arguments a{q, k, v, source, parent, source_row, replace};
    check_arguments(a, scale, Backend::kDtypes);
    check_out(a, out);
    Backend::attend_into(a, scale, out);
  }
};

}  // namespace pilot
