// The operator's tensors, and what a kernel gets of them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <optional>

#include "common/memory_safety.h"
#include "patched_attention/patched_attention.h"

namespace pilot {

// As patched_attention takes them; parent, source_row and replace contiguous.
struct PatchedAttentionArguments {
  at::Tensor q, k, v, source, parent, source_row, replace;
  std::optional<double> scale;
  at::Tensor out;
};

// Those that make it causal_attention: every row its own only child, with nothing replaced.
inline PatchedAttentionArguments nothing_replaced(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                  double scale, const at::Tensor& out) {
  const at::Tensor row = at::arange(q.size(0), q.options().dtype(at::kLong));
  const at::Tensor nothing = at::zeros({q.size(0), q.size(1), q.size(2)}, q.options().dtype(at::kBool));
  return {q, k, v, q, row, row, nothing, scale, out};
}

// The contract's struct. Raises for what would be unsafe or has no meaning; indexes are for the backend to check.
template <typename T>
PatchedAttention<T> describe(const PatchedAttentionArguments& a) {
  const auto strides = [](const at::Tensor& x) { return Strides{x.stride(0), x.stride(1), x.stride(2)}; };
  const at::TensorOptions numbers = a.q.options(), indexes = numbers.dtype(at::kLong);
  PatchedAttention<T> op;
  op.P = a.q.size(0), op.C = a.parent.size(0), op.S = a.source.size(0);
  op.Tq = a.q.size(1), op.Tk = a.k.size(1), op.H = a.q.size(2), op.H_kv = a.k.size(2), op.D = a.q.size(3);
  op.q = data<T>(a.q, numbers, {op.P, op.Tq, op.H, op.D});
  op.k = data<T>(a.k, numbers, {op.P, op.Tk, op.H_kv, op.D});
  op.v = data<T>(a.v, numbers, {op.P, op.Tk, op.H_kv, op.D});
  op.source = data<T>(a.source, numbers, {op.S, op.Tq, op.H, op.D});
  op.parent = data<int64_t>(a.parent, indexes, {op.C});
  op.source_row = data<int64_t>(a.source_row, indexes, {op.C});
  op.replace = data<bool>(a.replace, numbers.dtype(at::kBool), {op.C, op.Tq, op.H});
  op.z = mutable_data<T>(a.out, numbers, {op.C, op.Tq, op.H, op.D}, {a.q, a.k, a.v, a.source});
  TORCH_CHECK(a.out.is_contiguous(), "expected a contiguous out");
  op.q_strides = strides(a.q), op.k_strides = strides(a.k), op.v_strides = strides(a.v);
  op.source_strides = strides(a.source);
  TORCH_CHECK(op.Tq <= op.Tk && op.D >= 1 && op.D <= kMaxHeadDim,
              "expected no more queries than keys, and head_dim 1 to ", kMaxHeadDim);
  TORCH_CHECK(op.H_kv > 0 ? op.H % op.H_kv == 0 : op.H == 0, "expected heads that divide among those of k");
  TORCH_CHECK(op.C == 0 || (op.P > 0 && op.S > 0), "expected rows of q and source for the entries of parent");
  op.scale = a.scale.value_or(1.0 / std::sqrt(static_cast<double>(op.D)));
  TORCH_CHECK(std::isfinite(op.scale), "expected a finite scale");
  return op;
}

}  // namespace pilot
