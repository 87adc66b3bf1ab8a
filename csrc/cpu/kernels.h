// The table of kernels that each instruction set fills in. No ATen: its inline code, compiled for one instruction set,
// could be what the linker keeps for all.
//
// The operators' kernels (*/cpu/*.h) are templates that isa_*.cpp compile, each for its instruction set and in a
// namespace of its own:
//   generic   the compiler's default: SSE2 on x86-64, NEON on arm, plain scalars under MSVC
//   avx2      x86 with AVX2 and FMA: GCC or clang only
//   avx512    x86 with AVX-512 F, VL, BW, DQ: GCC or clang only
#pragma once

#include <cstddef>
#include <cstdint>

#include "branched_attention/branched_attention.h"
#include "branched_mlp/branched_mlp.h"
#include "patched_attention/cpu/children.h"
#include "patched_attention/patched_attention.h"
#include "product/product.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PILOT_X86 1
#else
#define PILOT_X86 0
#endif

namespace pilot {

template <typename T>
struct Kernels {
  // Work items first to last, exclusive; item (s * P + p) * H + h is head h of parent p, with all its children: of its
  // queries, which come in vectors, every shares-th vector from the s-th on.
  void (*attend)(const PatchedAttention<T>&, const Children&, int64_t shares, int64_t first, int64_t last,
                 void* scratch);
  // Heads first to last, exclusive; head (n * B + b) * H_kv + g is key and value head g of pair b of node n.
  void (*branched_attention)(const BranchedAttention<T>&, int64_t first, int64_t last, void* scratch);
  size_t (*branched_attention_scratch)(const BranchedAttention<T>&);  // bytes
  // Branches first to last, exclusive; branch ((n * B + b) * W + w) * C + c is branch c of row (n, b, w).
  void (*branched_mlp)(const BranchedMlp<T>&, int64_t first, int64_t last, void* scratch);
  size_t (*branched_mlp_scratch)(const BranchedMlp<T>&);  // bytes
  // Rows first to last, exclusive.
  void (*product)(const Product<T>&, int64_t first, int64_t last);
  // For tests: y = 2^x, n numbers.
  void (*exp2)(const T* x, T* y, int64_t n);
};

#define PILOT_DECLARE_ISA(isa)                 \
  namespace isa {                              \
  extern const Kernels<float> float_kernels;   \
  extern const Kernels<double> double_kernels; \
  }
PILOT_DECLARE_ISA(generic)
#if PILOT_X86
PILOT_DECLARE_ISA(avx2)
PILOT_DECLARE_ISA(avx512)
#endif
#undef PILOT_DECLARE_ISA

}  // namespace pilot
