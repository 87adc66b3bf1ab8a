// The kernels for x86 with AVX-512. The target is a pragma, not a compiler flag, because PyTorch's builder has no flags
// for one file; it follows every include, so that no standard library code is compiled for this instruction set.

#include "cpu/kernels.h"

#if PILOT_X86

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,fma")
#endif

#define PILOT_ISA avx512
#define PILOT_WIDE 64
#define PILOT_NARROW 32
#include "cpu/isa_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // PILOT_X86
