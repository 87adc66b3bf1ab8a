// The contract of patched_attention: one plain struct that the checks fill in and every kernel reads. No ATen here: the
// kernels are compiled without PyTorch's inline headers.
#pragma once

#include <cstdint>

namespace pilot {

constexpr int64_t kMaxHeadDim = 256;  // what the kernels' tiles hold; pilot/ops/checks.py says the same

// In elements. The last dimension (head_dim) is contiguous.
struct Strides {
  int64_t row, pos, head;
};

// z[c] = where(replace[c], source[source_row[c]], causal_attention(q, k, v)[parent[c]])
//
//   q           (P, Tq, H, D)       queries are the last Tq of Tk positions; P and S are 0 only where C is
//   k, v        (P, Tk, H_kv, D)    head h reads key/value head h / (H / H_kv)
//   source      (S, Tq, H, D)
//   parent      (C,)  in [0, P)     source_row  (C,)  in [0, S)
//   replace     (C, Tq, H)          contiguous
//   z           (C, Tq, H, D)       contiguous
template <typename T>
struct PatchedAttention {
  const T *q, *k, *v, *source;
  Strides q_strides, k_strides, v_strides, source_strides;
  const int64_t *parent, *source_row;
  const bool* replace;
  T* z;
  int64_t P, C, S;
  int64_t Tq, Tk, H, H_kv, D;
  double scale;
};

}  // namespace pilot
