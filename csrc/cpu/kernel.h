// What the host function and the instruction-set units agree on. No ATen: its inline code, compiled for one CPU, could
// be what the linker keeps for all.
//
// The same kernels (attention_template.h, branched_template.h) are compiled once for each instruction set, each time in
// a namespace of its own:
//   generic   the compiler's default: SSE2 on x86-64, NEON on arm, plain scalars under MSVC
//   avx2      x86 with AVX2 and FMA: GCC or clang only
//   avx512    x86 with AVX-512 F, VL, BW, DQ: GCC or clang only
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../branched_hidden.h"
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

// What one instruction set computes. The last two are hooks for tests: a function of each of n numbers.
template <typename T>
struct Kernels {
  // Work items first to last, exclusive; item (s * P + p) * H + h is head h of parent p, with all its children: of its
  // queries, which come in vectors, every shares-th vector from the s-th on.
  void (*attend)(const PatchedAttention<T>&, const Children&, int64_t shares, int64_t first, int64_t last,
                 void* scratch);
  // Rows first to last, exclusive; row (n * B + b) * W + w is position w of pair b of node n, in all
  // branches.
  void (*branched_hidden)(const BranchedHidden<T>&, int64_t first, int64_t last);
  void (*exp2)(const T* x, T* y, int64_t n);
  void (*gelu)(const T* x, T* y, int64_t n);
};

// A thread's scratch, 64-byte aligned, enough for attention.
constexpr size_t kScratchBytes = 320 * 1024;

#define PILOT_DECLARE_UNIT(isa)                \
  namespace isa {                              \
  extern const Kernels<float> float_kernels;   \
  extern const Kernels<double> double_kernels; \
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

// Of the instruction set in use.
template <typename T>
const Kernels<T>& kernels();

}  // namespace cpu
}  // namespace pilot
