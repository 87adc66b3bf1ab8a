// The contract of branched_hidden: one plain struct that the checks fill in and every kernel reads. No ATen here: the
// kernels are compiled without PyTorch's inline headers.
#pragma once

#include <cstdint>

namespace pilot {

// For each node n, branch c and row (b, w):
//
//   total  = state + the terms k with member[c][k]                                      (d + m)
//   after  = total[:d] + out_bias                                                       (d)
//   hidden = gelu(total[d:] / sqrt(mean(total[:d] ** 2) + eps) + in_bias)               (m)
//
//   state     (N, B, W, d + m)      rows contiguous
//   terms     (K, N, B, W, d + m)   rows contiguous
//   member    (C, B, W, K)          any strides
//   hidden    (N, C, B, W, m)       contiguous         in_bias   (m,)  contiguous
//   after     (N, C, B, W, d)       contiguous         out_bias  (d,)  contiguous
template <typename T>
struct BranchedHidden {
  const T *state, *terms;
  const bool* member;
  const T *in_bias, *out_bias;
  int64_t state_strides[3], terms_strides[4], member_strides[4];
  T *hidden, *after;
  int64_t N, C, B, W, K, d, m;
  double eps;
};

}  // namespace pilot
