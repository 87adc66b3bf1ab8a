// The contract of branched_attention: one plain struct that the checks fill in and every kernel reads. No ATen here:
// the instruction-set units are compiled without PyTorch's inline headers.
#pragma once

#include <cstdint>

namespace pilot {

// Causal attention of Q queries, at positions first, first + 1, ..., for each node n and pair b. Keys and values at
// positions start to start + W are the node's own; at all others they are those of an unpatched run, which the nodes
// share. Query head h reads key and value head h / (H / H_kv). With `eps`, own keys and values are both divided by
// sqrt(mean(k ** 2) + eps), which is taken over the key's D numbers.
//
//   q                (N, B, Q, H, D)       last dimension contiguous
//   k, v             (N, B, W, H_kv, D)    likewise
//   base_k, base_v   (B, E, H_kv, D)       likewise; E >= first + Q
//   out              (N, B, Q, H, D)       likewise
template <typename T>
struct BranchedAttention {
  const T *q, *k, *v, *base_k, *base_v;
  T* out;
  int64_t q_strides[4], k_strides[4], v_strides[4], base_k_strides[3], base_v_strides[3], out_strides[4];
  int64_t N, B, Q, W, H, H_kv, D, start, first;
  double scale, eps;
  bool normalises;
};

}  // namespace pilot
