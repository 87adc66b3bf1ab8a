// The kernel for x86 with AVX2. The target is a pragma, not a compiler flag, because PyTorch's builder has no flags
// for one file; it follows every include, so that no standard library code is compiled for this instruction set.

#include "kernel.h"

#if PILOT_X86_UNITS

#include <cmath>
#include <cstring>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define PILOT_ISA avx2
#include "unit.h"

namespace pilot::avx2 {

void attend(const PatchedAttention<float>& op, const Children& children, int64_t first, int64_t last, void* scratch) {
  attend_heads<Simd<float, 8>, Simd<float, 4>>(op, children, first, last, scratch);
}

void attend(const PatchedAttention<double>& op, const Children& children, int64_t first, int64_t last, void* scratch) {
  attend_heads<Simd<double, 4>, Simd<double, 2>>(op, children, first, last, scratch);
}

void exp2(const float* x, float* y, int64_t n) { exp2_each<Simd<float, 8>>(x, y, n); }
void exp2(const double* x, double* y, int64_t n) { exp2_each<Simd<double, 4>>(x, y, n); }

}  // namespace pilot::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // PILOT_X86_UNITS
