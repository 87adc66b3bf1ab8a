// What the host function and the instruction-set units agree on. No ATen: its inline code, compiled for one CPU, could
// be what the linker keeps for all.
//
// The same kernel (kernel_template.h) is compiled once for each instruction set, each time in a namespace of its own:
//   generic   the compiler's default: SSE2 on x86-64, NEON on arm, plain scalars under MSVC
//   avx2      x86 with AVX2 and FMA: GCC or clang only
//   avx512    x86 with AVX-512 F, VL, BW, DQ: GCC or clang only
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../patched_attention.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PILOT_X86_UNITS 1
#else
#define PILOT_X86_UNITS 0
#endif

namespace pilot {

// The rows of z computed from parent p: row[begin[p]] to row[begin[p + 1]], exclusive.
struct Children {
  const int64_t* begin;
  const int64_t* row;
};

// Computes work items first to last, exclusive; item p * H + h is head h of parent p, with all its children.
template <typename T>
using Kernel = void (*)(const PatchedAttention<T>&, const Children&, int64_t first, int64_t last, void* scratch);

// A thread's scratch, 64-byte aligned, enough for every kernel.
constexpr size_t kScratchBytes = 320 * 1024;

#define PILOT_DECLARE_UNIT(isa)                                                                                     \
  namespace isa {                                                                                                   \
  void attend(const PatchedAttention<float>&, const Children&, int64_t first, int64_t last, void* scratch);         \
  void attend(const PatchedAttention<double>&, const Children&, int64_t first, int64_t last, void* scratch);        \
  void exp2(const float* x, float* y, int64_t n);                                                                   \
  void exp2(const double* x, double* y, int64_t n);                                                                 \
  }
PILOT_DECLARE_UNIT(generic)
#if PILOT_X86_UNITS
PILOT_DECLARE_UNIT(avx2)
PILOT_DECLARE_UNIT(avx512)
#endif
#undef PILOT_DECLARE_UNIT

namespace cpu {

// The instruction sets this CPU can run, worst first, and the one in use: the best, or what PILOT_CPU_CAPABILITY names.
std::vector<std::string> capabilities();
std::string capability();
void use_capability(const std::string& name);

template <typename T>
Kernel<T> kernel();
template <typename T>
std::vector<T> exp2(const std::vector<T>& x);

}  // namespace cpu
}  // namespace pilot
