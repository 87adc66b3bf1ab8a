// The kernels for x86 with AVX2. The target is a pragma, not a compiler flag, because PyTorch's builder has no flags
// for one file; it follows every include, so that no standard library code is compiled for this instruction set.

#include "cpu/kernels.h"

#if PILOT_X86

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define PILOT_ISA avx2
#define PILOT_WIDE 32
#define PILOT_NARROW 16
#include "cpu/isa_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // PILOT_X86
