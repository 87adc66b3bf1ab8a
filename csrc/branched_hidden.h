// The contract of branched_hidden: one plain struct that the checks fill in and every kernel reads. No ATen here: the
// instruction-set units are compiled without PyTorch's inline headers.
#pragma once

#include <cstdint>

namespace pilot {

// For each branch c, row (g, w):
//
//   total     = state + the terms k with member[c][k]                                      (d + m)
//   after[c]  = total[:d] + out_bias                                                       (d)
//   hidden[c] = gelu(total[d:] / sqrt(mean(total[:d] ** 2) + eps) + in_bias)               (m)
//
//   state     (G, W, d + m)         rows contiguous
//   terms     (K, G, W, d + m)      rows contiguous
//   member    (C, G, W, K)          any strides
//   hidden    (C, G, W, m)          contiguous         in_bias   (m,)  contiguous
//   after     (C, G, W, d)          contiguous         out_bias  (d,)  contiguous
template <typename T>
struct BranchedHidden {
  const T *state, *terms;
  const bool *member;
  const T *in_bias, *out_bias;
  int64_t state_strides[2], terms_strides[3], member_strides[4];
  T *hidden, *after;
  int64_t C, G, W, K, d, m;
  double eps;
};

}  // namespace pilot
