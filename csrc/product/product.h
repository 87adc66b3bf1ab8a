// The contract of product: one plain struct that the checks fill in and every kernel reads. No ATen here: the
// instruction-set units are compiled without PyTorch's inline headers.
#pragma once

#include <cstdint>

namespace pilot {

// out = x @ matrix, plus bias where there is one, plus what out holds where `add` is set.
//
//   x      (M, K)   rows contiguous      bias  (N,)     contiguous, or null
//   matrix (K, N)   rows contiguous      out   (M, N)   rows contiguous
template <typename T>
struct Product {
  const T *x, *matrix, *bias;
  T* out;
  int64_t x_stride, matrix_stride, out_stride;
  int64_t M, K, N;
  bool add;
};

}  // namespace pilot
