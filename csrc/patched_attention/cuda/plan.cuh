// Which children each parent has.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace pilot::cuda {

// The children of parent p are order[begin[p]] ... order[begin[p] + count[p] - 1].
//
// Ranges, and the children in a range, come in no fixed order: they are handed out by atomic counters. Nothing in z
// depends on it, because each child's row is written once, from values that do not depend on its place; so the output
// is the same bits every time.
struct Plan {
  int *begin, *count;  // (P,)
  int* handed_out;     // (1,)  right behind count: how much of `order` belongs to some parent already
  int *order, *rank;   // (C,)  rank: a child's place among its siblings, used while planning

  Plan(void* workspace, int64_t P, int64_t C)
      : begin(static_cast<int*>(workspace)),
        count(begin + P),
        handed_out(count + P),
        order(handed_out + 1),
        rank(order + C) {}

  static size_t bytes(int64_t P, int64_t C) { return (2 * P + 2 * C + 1) * sizeof(int); }
};

// Fills the plan, checking every index on the way.
cudaError_t launch_plan(const Plan& plan, const int64_t* parent, const int64_t* source_row, int64_t P, int64_t C,
                        int64_t S, cudaStream_t stream);

// A block's children: every `step`-th of its parent's, from the `share`-th on.
struct Children {
  const int* list;
  int count, step;

  __device__ Children(const Plan& plan, int64_t parent, int share, int shares)
      : list(plan.order + plan.begin[parent] + share),
        count((plan.count[parent] - share + shares - 1) / shares),
        step(shares) {}

  __device__ int64_t operator[](int i) const { return list[static_cast<int64_t>(i) * step]; }
};

}  // namespace pilot::cuda
