// A counting sort of the children by parent: count, hand out ranges, fill.
#include "cuda/launch.cuh"
#include "patched_attention/cuda/index_checks.cuh"
#include "patched_attention/cuda/launcher.h"
#include "patched_attention/cuda/plan.cuh"

namespace pilot::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int64_t kSmall = 16384;  // P + C up to which one block does it all, in one launch instead of four

struct Problem {
  Plan plan;
  const int64_t *parent, *source_row;
  int64_t P, C, S;
};

__device__ void clear_counts(const Problem& x) {
  for (int64_t p = threadIdx.x; p <= x.P; p += blockDim.x) x.plan.count[p] = 0;  // and handed_out
}

// Siblings in one warp add to their count together: a parent with very many children is not a queue of single
// additions.
__device__ void count_children(const Problem& x) {
  const int lane = threadIdx.x % 32;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x - lane; first < x.C;
       first += stride) {
    const int64_t c = first + lane;
    const unsigned busy = __ballot_sync(kWholeWarp, c < x.C);
    if (c >= x.C) continue;
    const int64_t parent = x.parent[c], donor = x.source_row[c];
    assert_in_range(parent, x.P, donor, x.S);
    const unsigned siblings = __match_any_sync(busy, static_cast<long long>(parent));
    const int leader = __ffs(siblings) - 1;
    int rank = 0;
    if (lane == leader) rank = atomicAdd(&x.plan.count[parent], __popc(siblings));
    rank = __shfl_sync(siblings, rank, leader);
    x.plan.rank[c] = rank + __popc(siblings & ((1u << lane) - 1));
  }
}

// Each block takes as many parents as it has threads, sums their counts up, and takes that much of `order` in one go.
__device__ void hand_out_ranges(const Problem& x) {
  __shared__ int sums[kThreads / 32];
  __shared__ int base;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x; first < x.P;
       first += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t p = first + threadIdx.x;
    const int count = p < x.P ? x.plan.count[p] : 0;
    int end = count;  // of this parent's range, counted from the warp's first
    for (int step = 1; step < 32; step *= 2) {
      const int before = __shfl_up_sync(kWholeWarp, end, step);
      if (lane >= step) end += before;
    }
    if (lane == 31) sums[warp] = end;
    __syncthreads();
    if (threadIdx.x == 0) {
      int total = 0;
      for (int w = 0; w < warps; ++w) {
        const int sum = sums[w];
        sums[w] = total;
        total += sum;
      }
      base = atomicAdd(x.plan.handed_out, total);
    }
    __syncthreads();
    if (p < x.P) x.plan.begin[p] = base + sums[warp] + end - count;
    __syncthreads();  // base and sums are read before the next round writes them
  }
}

__device__ void fill_order(const Problem& x) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; c < x.C; c += stride) {
    x.plan.order[x.plan.begin[x.parent[c]] + x.plan.rank[c]] = static_cast<int>(c);
  }
}

__global__ void __launch_bounds__(kThreads) small_plan_kernel(Problem x) {
  clear_counts(x);
  __syncthreads();
  count_children(x);
  __syncthreads();
  hand_out_ranges(x);
  __syncthreads();
  fill_order(x);
}

__global__ void __launch_bounds__(kThreads) count_children_kernel(Problem x) { count_children(x); }
__global__ void __launch_bounds__(kThreads) hand_out_ranges_kernel(Problem x) { hand_out_ranges(x); }
__global__ void __launch_bounds__(kThreads) fill_order_kernel(Problem x) { fill_order(x); }

}  // namespace

size_t workspace_bytes(int64_t P, int64_t C) { return Plan::bytes(P, C); }

cudaError_t launch_plan(const Plan& plan, const int64_t* parent, const int64_t* source_row, int64_t P, int64_t C,
                        int64_t S, cudaStream_t stream) {
  const Problem x{plan, parent, source_row, P, C, S};
  if (P + C <= kSmall) return launch(small_plan_kernel, 1, kThreads, 0, stream, x);

  const int64_t parent_blocks = (P + kThreads - 1) / kThreads, child_blocks = (C + kThreads - 1) / kThreads;
  if (const cudaError_t error = cudaMemsetAsync(plan.count, 0, (P + 1) * sizeof(int), stream))
    return error;  // and handed_out
  if (const cudaError_t error = launch(count_children_kernel, child_blocks, kThreads, 0, stream, x)) return error;
  if (const cudaError_t error = launch(hand_out_ranges_kernel, parent_blocks, kThreads, 0, stream, x)) return error;
  return launch(fill_order_kernel, child_blocks, kThreads, 0, stream, x);
}

}  // namespace pilot::cuda
