// All of an isa_*.cpp but its target: the table that kernels.h declares. Before it stand PILOT_ISA, the namespace, and
// PILOT_WIDE and PILOT_NARROW, the bytes of its vectors.
#pragma once

#include "branched_attention/cpu/few_queries.h"
#include "branched_mlp/cpu/branched_mlp_rows.h"
#include "patched_attention/cpu/attention.h"
#include "product/cpu/product_rows.h"

namespace pilot::PILOT_ISA {
namespace {

template <typename T, int kBytes>
using Vector = Simd<T, (kBytes > int(sizeof(T)) ? kBytes / int(sizeof(T)) : 1)>;

template <typename S>
void exp2_of_each(const typename S::T* x, typename S::T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += S::N) {
    const int64_t left = n - i < S::N ? n - i : S::N;
    S::store(y + i, S::exp2(S::load(x + i, left)), left);
  }
}

template <typename T>
constexpr Kernels<T> kernels_of() {
  using Wide = Vector<T, PILOT_WIDE>;
  using Narrow = Vector<T, PILOT_NARROW>;
  Kernels<T> kernels{};
  kernels.attend = attend_heads<Wide, Narrow>;
  kernels.branched_attention = branched_attention_heads<Wide>;
  kernels.branched_attention_scratch = FewQueries<Wide>::scratch_bytes;
  kernels.branched_mlp = branched_mlp_rows<Wide>;
  kernels.branched_mlp_scratch = MlpBlock<Wide>::scratch_bytes;
  kernels.product = product_rows<Wide>;
  kernels.exp2 = exp2_of_each<Wide>;
  return kernels;
}

}  // namespace

const Kernels<float> float_kernels = kernels_of<float>();
const Kernels<double> double_kernels = kernels_of<double>();

}  // namespace pilot::PILOT_ISA
