// csrc/cuda/device.cuh for a CPU: the kernels' logic can be tested where there is no GPU. Included before it, under its
// guard.
//
// A block's threads are fibers that run one at a time until each reaches a barrier; warp by warp, as far as a warp gets
// alone, in a shuffled order. So a missing barrier, a barrier that some threads skip, a copy that is not waited for,
// and shared memory that is read before it is written show in the result. It says nothing of speed, of memory ordering
// between blocks, or of the compiler for the GPU.
#ifndef PILOT_CUDA_DEVICE_CUH
#define PILOT_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static  // blocks run one after another

namespace emulation {

struct Index {
  int x;
};

// Of the fiber that runs now.
extern Index thread, block, block_dim, grid_dim;

uint4* dynamic_shared();
void copy_later(void* to, const void* from, bool valid);
void wait_for_copies();
void block_barrier();

// What every lane of `mask` gave, at its lane's place.
struct Lanes {
  uint64_t value[32];
};
Lanes exchange(unsigned mask, uint64_t value);

// Shared memory that a block of this kernel may ask for: 48 KB, or what cudaFuncSetAttribute has set.
size_t most_shared(const void* kernel);

void run(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& kernel);

}  // namespace emulation

#define threadIdx emulation::thread
#define blockIdx emulation::block
#define blockDim emulation::block_dim
#define gridDim emulation::grid_dim

inline void __syncthreads() { emulation::block_barrier(); }

inline void __syncwarp() { emulation::exchange(0xffffffffu, 0); }

template <typename T>
T __shfl_sync(unsigned mask, T x, int lane) {
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  const emulation::Lanes lanes = emulation::exchange(mask, bits);
  T y;
  std::memcpy(&y, &lanes.value[lane], sizeof y);
  return y;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T x, int bit) {
  return __shfl_sync(mask, x, threadIdx.x % 32 ^ bit);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T x, int step) {
  return __shfl_sync(mask, x, std::max(threadIdx.x % 32 - step, 0));
}
inline unsigned __ballot_sync(unsigned mask, bool x) {
  const emulation::Lanes lanes = emulation::exchange(mask, x);
  unsigned votes = 0;
  for (int l = 0; l < 32; ++l) {
    if (mask >> l & 1) votes |= static_cast<unsigned>(lanes.value[l]) << l;
  }
  return votes;
}
inline bool __any_sync(unsigned mask, bool x) { return __ballot_sync(mask, x) != 0; }
inline unsigned __reduce_or_sync(unsigned mask, unsigned x) {
  const emulation::Lanes lanes = emulation::exchange(mask, x);
  unsigned all = 0;
  for (int l = 0; l < 32; ++l) {
    if (mask >> l & 1) all |= static_cast<unsigned>(lanes.value[l]);
  }
  return all;
}
inline unsigned __match_any_sync(unsigned mask, long long x) {
  const emulation::Lanes lanes = emulation::exchange(mask, static_cast<uint64_t>(x));
  unsigned same = 0;
  for (int l = 0; l < 32; ++l) {
    if (mask >> l & 1 && lanes.value[l] == static_cast<uint64_t>(x)) same |= 1u << l;
  }
  return same;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline int atomicAdd(int* to, int x) { return (*to += x) - x; }
inline unsigned atomicOr(unsigned* to, unsigned x) {
  const unsigned before = *to;
  *to |= x;
  return before;
}

namespace pilot::cuda {

using std::max;
using std::min;

constexpr unsigned kWholeWarp = 0xffffffffu;

inline uint4* dynamic_shared() { return emulation::dynamic_shared(); }
inline void copy_async(void* to, const void* from, bool valid) { emulation::copy_later(to, from, valid); }
inline void wait_for_copies() { emulation::wait_for_copies(); }
inline float exp2_fast(float x) { return std::exp2(x); }

template <typename... Parameters, typename... Values>
cudaError_t enqueue(void (*kernel)(Parameters...), unsigned blocks, int threads, size_t shared_bytes, cudaStream_t,
                    Values... values) {
  if (blocks < 1 || threads < 1 || threads > 1024 || threads % 32) return cudaErrorInvalidConfiguration;
  if (shared_bytes > emulation::most_shared(reinterpret_cast<const void*>(kernel))) return cudaErrorInvalidValue;
  emulation::run(blocks, threads, shared_bytes, [&] { kernel(values...); });
  return cudaSuccess;
}

}  // namespace pilot::cuda

#endif
