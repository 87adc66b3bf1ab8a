#include <cmath>

#include "branched_mlp/cuda/branch_rows.h"
#include "cuda/launch.cuh"

namespace pilot::cuda {
namespace {

constexpr int kThreads = 128;

// What sums are made in.
template <typename T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ inline T narrow(Sum<T> x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

template <typename S>
__device__ inline S activated(Activation activation, S x) {
  switch (activation) {
    case Activation::kGelu:
      return x * std::erfc(x * S(-0.7071067811865476)) / 2;
    case Activation::kSiluGated:
      return x / (1 + std::exp(-x));
    default:  // both forms of GELU's approximation with tanh
      return x / 2 * (1 + std::tanh(S(0.7978845608028654) * (x + S(0.044715) * x * x * x)));
  }
}

// The sum of x over a block's threads, for each of them.
template <typename S>
__device__ inline S sum_over_block(S x) {
  __shared__ S of_warp[kThreads / 32];
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(kWholeWarp, x, lane);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  S sum = 0;
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += of_warp[warp];
  return sum;
}

// A block has one row. Branches of a node share its state and terms, which the second-level cache keeps for them.
template <typename T>
__global__ void __launch_bounds__(kThreads) branch_rows_kernel(BranchedMlp<T> op, int64_t first, T* hidden) {
  using S = Sum<T>;
  const int64_t row = first + blockIdx.x;
  const int64_t w = row % op.W, b = row / op.W % op.B, c = row / (op.W * op.B) % op.C, n = row / (op.W * op.B * op.C);
  const T* const state = op.state + n * op.state_strides[0] + b * op.state_strides[1] + w * op.state_strides[2];
  const T* const terms = op.terms + n * op.terms_strides[1] + b * op.terms_strides[2] + w * op.terms_strides[3];

  int* const added = reinterpret_cast<int*>(dynamic_shared());  // the terms of this branch
  __shared__ int n_added;
  if (threadIdx.x == 0) {
    const bool* const member =
        op.member + c * op.member_strides[0] + b * op.member_strides[1] + w * op.member_strides[2];
    n_added = 0;
    for (int k = 0; k < op.K; ++k) {
      if (member[k * op.member_strides[3]]) added[n_added++] = k;
    }
  }
  __syncthreads();
  const int n_terms = n_added;
  const auto total = [&](int64_t column) {
    S x = widen(state[column]);
    for (int i = 0; i < n_terms; ++i) x += widen(terms[added[i] * op.terms_strides[0] + column]);
    return x;
  };

  S squares = 0;
  for (int64_t i = threadIdx.x; i < op.d; i += kThreads) {
    const S x = total(i);
    squares += x * x;
    op.out[row * op.d + i] = narrow<T>(op.out_bias ? x + widen(op.out_bias[i]) : x);
  }
  const S scale = 1 / std::sqrt(sum_over_block(squares) / S(op.d) + S(op.eps));
  const auto input = [&](int64_t i) {
    const S x = total(op.d + i) * scale;
    return op.in_bias ? x + widen(op.in_bias[i]) : x;
  };
  T* const units = hidden + blockIdx.x * op.m;
  for (int64_t i = threadIdx.x; i < op.m; i += kThreads) {
    const S x = activated(op.activation, input(i));
    units[i] = narrow<T>(op.h > op.m ? x * input(op.m + i) : x);
  }
}

}  // namespace

template <typename T>
cudaError_t launch_branch_rows(const BranchedMlp<T>& op, int64_t first, int64_t n, T* hidden, cudaStream_t stream) {
  return launch(branch_rows_kernel<T>, n, kThreads, op.K * sizeof(int), stream, op, first, hidden);
}

template cudaError_t launch_branch_rows(const BranchedMlp<float>&, int64_t, int64_t, float*, cudaStream_t);
template cudaError_t launch_branch_rows(const BranchedMlp<double>&, int64_t, int64_t, double*, cudaStream_t);
template cudaError_t launch_branch_rows(const BranchedMlp<__half>&, int64_t, int64_t, __half*, cudaStream_t);
template cudaError_t launch_branch_rows(const BranchedMlp<__nv_bfloat16>&, int64_t, int64_t, __nv_bfloat16*,
                                        cudaStream_t);

}  // namespace pilot::cuda
