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
#error \
    "patched_attention needs compute capability 8.0 or newer: set TORCH_CUDA_ARCH_LIST to your GPU's, such as 8.0 or 9.0"
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

// Four 8x8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8.
// Afterwards lane l holds, of each matrix, or of its transpose, row l / 4, columns 2 (l % 4) and the next.
template <bool transposed>
__device__ inline void load_matrices(uint32_t (&m)[4], const void* row) {
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

// c += a b on the tensor cores: a is 16 x 16, b 16 x 8, c 16 x 8 in float32. With g = l / 4 and t = 2 (l % 4), lane l
// holds:
//   a[0] row g, columns t and t + 1; a[1] row g + 8; a[2] row g, columns t + 8, t + 9; a[3] row g + 8, those
//   b0 rows t and t + 1 of column g; b1 rows t + 8 and t + 9
//   c[0], c[1] row g, columns t and t + 1; c[2], c[3] row g + 8
template <typename T>
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
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
