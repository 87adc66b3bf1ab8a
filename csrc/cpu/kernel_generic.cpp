// The kernel for any CPU.

#include "kernel.h"

#define PILOT_ISA generic
#include "unit.h"

namespace pilot::generic {
namespace {

#if defined(__GNUC__) || defined(__clang__)
using Floats = Simd<float, 4>;
using Doubles = Simd<double, 2>;
#else
using Floats = Simd<float, 1>;
using Doubles = Simd<double, 1>;
#endif

}  // namespace

void attend(const PatchedAttention<float>& op, const Children& children, int64_t first, int64_t last, void* scratch) {
  attend_heads<Floats, Floats>(op, children, first, last, scratch);
}

void attend(const PatchedAttention<double>& op, const Children& children, int64_t first, int64_t last, void* scratch) {
  attend_heads<Doubles, Doubles>(op, children, first, last, scratch);
}

void exp2(const float* x, float* y, int64_t n) { exp2_each<Floats>(x, y, n); }
void exp2(const double* x, double* y, int64_t n) { exp2_each<Doubles>(x, y, n); }

}  // namespace pilot::generic
