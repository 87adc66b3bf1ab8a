// All of an isa_*.cpp but its target: the table that kernels.h declares. Before it stand PILOT_ISA, the namespace, and
// PILOT_WIDE and PILOT_NARROW, the bytes of its vectors.
#pragma once

#include "branched_hidden/cpu/branched_hidden_rows.h"
#include "patched_attention/cpu/attention.h"

namespace pilot::PILOT_ISA {
namespace {

template <typename T, int kBytes>
using Vector = Simd<T, (kBytes > int(sizeof(T)) ? kBytes / int(sizeof(T)) : 1)>;

template <typename S, typename S::V (*function)(typename S::V)>
void elementwise(const typename S::T* x, typename S::T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += S::N) {
    const int64_t left = n - i < S::N ? n - i : S::N;
    S::store(y + i, function(S::load(x + i, left)), left);
  }
}

template <typename T>
constexpr Kernels<T> kernels_of() {
  using Wide = Vector<T, PILOT_WIDE>;
  using Narrow = Vector<T, PILOT_NARROW>;
  return {attend_heads<Wide, Narrow>, branched_hidden_rows<Wide>, elementwise<Wide, Wide::exp2>,
          elementwise<Wide, Wide::gelu>};
}

}  // namespace

const Kernels<float> float_kernels = kernels_of<float>();
const Kernels<double> double_kernels = kernels_of<double>();

}  // namespace pilot::PILOT_ISA
