// Checks that each ask one thing of one tensor, and raise ValueError or TypeError where it does not hold.
// pilot/ops/checks.py repeats them, message for message.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>

namespace pilot {

// A tensor, by the name that messages use.
struct Named {
  const char* name;
  const at::Tensor& tensor;
};

void check_dim(Named x, int64_t dim, const char* letters);
void check_shape(Named x, at::IntArrayRef shape, const char* letters);
void check_dtype(Named x, at::ScalarType dtype);
void check_device(Named x, Named as);
void check_last_contiguous(Named x);

// That they share no memory, as far as PyTorch can tell: of views with gaps it cannot.
void check_no_overlap(Named out, Named x);

// That `out` can take results: its shape, contiguity, and dtype and device as those of `as`.
void check_out(Named out, at::IntArrayRef shape, const char* letters, Named as);

// That `op` computes in x's dtype, `dtypes` being those that the backend has.
void check_computes(const char* op, const at::Tensor& x, std::initializer_list<at::ScalarType> dtypes);

}  // namespace pilot
