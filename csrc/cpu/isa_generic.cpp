// The kernels for any CPU.

#include "cpu/kernels.h"

#define PILOT_ISA generic
#if defined(__GNUC__) || defined(__clang__)
#define PILOT_WIDE 16
#define PILOT_NARROW 16
#else  // no vector types: plain numbers
#define PILOT_WIDE 1
#define PILOT_NARROW 1
#endif
#include "cpu/isa_kernels.h"
