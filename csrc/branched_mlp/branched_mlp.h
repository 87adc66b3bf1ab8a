// The contract of branched_mlp: one plain struct that the checks fill in and every kernel reads. No ATen here: the
// instruction-set units are compiled without PyTorch's inline headers.
#pragma once

#include <cstdint>

namespace pilot {

enum class Activation { kGelu, kGeluTanh, kSiluGated, kGeluTanhGated };

// The names of the activations, in the order of the enumeration.
constexpr const char* kActivations[] = {"gelu", "gelu_tanh", "silu_gated", "gelu_tanh_gated"};

// For each node n, row (b, w) and branch c; h is m, or 2 m where the activation is gated:
//
//   total  = state + the terms k with member[c][k]                              (d + h)
//   inputs = total[d:] / sqrt(mean(total[:d] ** 2) + eps) + in_bias             (h)
//   hidden = activation(inputs), or activation(inputs[:m]) * inputs[m:]         (m)
//   out    = total[:d] + out_bias + hidden @ mlp_out                            (d)
//
//   state     (N, B, W, d + h)      rows contiguous      in_bias   (h,)    contiguous, or null
//   terms     (K, N, B, W, d + h)   rows contiguous      out_bias  (d,)    contiguous, or null
//   member    (C, B, W, K)          any strides          mlp_out   (m, d)  rows contiguous
//   out       (N, C, B, W, d)       rows contiguous
template <typename T>
struct BranchedMlp {
  const T *state, *terms;
  const bool* member;
  const T *in_bias, *out_bias, *mlp_out;
  T* out;
  int64_t state_strides[3], terms_strides[4], member_strides[4], mlp_out_stride, out_strides[4];
  int64_t N, C, B, W, K, d, h, m;
  double eps;
  Activation activation;
};

}  // namespace pilot
