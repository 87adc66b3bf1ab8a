// What needs nvcc: instructions of the GPU that C++ has no names for, and the launch of a kernel.
// An include guard, not a pragma: tests/support/cuda_emulation puts its own version, for a CPU, in place of this file.
#ifndef PILOT_CUDA_DEVICE_CUH
#define PILOT_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cfloat>
#include <climits>
#include <cstdint>
#include <type_traits>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "the operators need compute capability 8.0 or newer: set TORCH_CUDA_ARCH_LIST to your GPU's, such as 8.0 or 9.0"
#endif

namespace pilot::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ inline uint4* dynamic_shared() {
  extern __shared__ uint4 shared[];
  return shared;
}

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts an asynchronous copy of 16 bytes to shared memory; of zeros where `valid` is false: `from` is then not read.
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}

// This thread's copies have arrived. Other threads see them after a barrier.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// 2^x, relative error below 2^-22; what would be subnormal is 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Enqueues a kernel. See launch.cuh.
template <typename... Parameters, typename... Values>
cudaError_t enqueue(void (*kernel)(Parameters...), unsigned blocks, int threads, size_t shared_bytes,
                    cudaStream_t stream, Values... values) {
  kernel<<<blocks, threads, shared_bytes, stream>>>(values...);
  return cudaGetLastError();
}

}  // namespace pilot::cuda

#endif
