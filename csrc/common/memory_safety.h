// What a kernel's host function asserts of its arguments, so that no call can make it read or write elsewhere. Once
// a kernel has refused, pilot/ops says in words why.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>

namespace pilot {

// Raises unless `x` has the dtype and device of `like` and this shape, its last dimension contiguous.
inline void assert_fits(const at::Tensor& x, const at::TensorOptions& like, at::IntArrayRef shape) {
  TORCH_CHECK(x.device() == like.device() && x.dtype() == like.dtype() && x.sizes() == shape &&
                  (x.size(-1) <= 1 || x.stride(-1) == 1),
              "expected ", c10::typeMetaToScalarType(like.dtype()), " on ", like.device(), " of shape ", shape,
              ", contiguous in its last dimension, not ", x.scalar_type(), " on ", x.device(), " of shape ", x.sizes(),
              " and strides ", x.strides());
}

// T is the type of `like`, as the kernel calls it.
template <typename T>
const T* data(const at::Tensor& x, const at::TensorOptions& like, at::IntArrayRef shape) {
  assert_fits(x, like, shape);
  return static_cast<const T*>(x.const_data_ptr());
}

// The same, of a tensor that is written: no number of it may share memory with another, or with `read`.
template <typename T>
T* mutable_data(const at::Tensor& x, const at::TensorOptions& like, at::IntArrayRef shape, at::TensorList read) {
  assert_fits(x, like, shape);
  at::assert_no_internal_overlap(x);
  for (const at::Tensor& other : read) at::assert_no_overlap(x, other);
  return static_cast<T*>(x.mutable_data_ptr());
}

// Waking the other threads costs some microseconds: a part with fewer multiplications is not worth one.
constexpr int64_t kMultipliesPerPart = 500'000;

template <size_t n>
void copy_strides(const at::Tensor& x, int64_t (&strides)[n]) {
  for (size_t i = 0; i < n; ++i) strides[i] = x.stride(i);
}

}  // namespace pilot
