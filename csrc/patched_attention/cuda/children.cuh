// What happens to a parent's attention: it goes to each child, except where that child takes a donor's value.
#pragma once

#include "patched_attention/cuda/plan.cuh"
#include "patched_attention/cuda/tile.cuh"
#include "patched_attention/patched_attention.h"

namespace pilot::cuda {

// Bit h: some child takes attention of head first_head + h at one of the positions [first_pos, first_pos + rows). The
// whole block calls this and gets the same answer. At most 32 heads. It stops reading as soon as every head is wanted,
// mostly at the first child. `found` is in shared memory, and free for other use on return: not a variable of its own,
// because the largest tiles leave no room.
template <typename T>
__device__ inline unsigned heads_needed(const PatchedAttention<T>& op, const Children& children, int first_head,
                                        int heads, int64_t first_pos, int rows, unsigned& found) {
  const unsigned all = kWholeWarp >> (32 - heads);
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  unsigned needed = 0;
  for (int child = 0; child < children.count && needed != all; ++child) {
    const bool* replace = op.replace + (children[child] * op.Tq + first_pos) * op.H + first_head;
    unsigned mine = 0;
    for (int i = threadIdx.x; i < rows * heads; i += blockDim.x) {
      const int head = i % heads;
      if (!replace[i / heads * op.H + head]) mine |= 1u << head;
    }
    mine = __reduce_or_sync(kWholeWarp, mine);
    if (threadIdx.x % 32 == 0) atomicOr(&found, mine);
    __syncthreads();
    needed = found;
    __syncthreads();  // everyone has read it before the next child adds to it
  }
  return needed;
}

// Writes one head's rows [first_pos, first_pos + rows) of every child: the tile's, or bit for bit the donor's.
// The tile is read once, into registers; `Unit` is 16 bytes where everything is aligned, else one value.
template <int width, typename Unit, typename T>
__device__ inline void write_units(const PatchedAttention<T>& op, const Children& children, int head, int64_t first_pos,
                                   int rows, const T* tile, int tile_stride, int threads) {
  constexpr int kAtOnce = 4;  // loads in flight for each thread
  const Strides& s = op.source_strides;
  const int64_t flag_pos = op.H, z_pos = op.H * op.D, flag_row = op.Tq * flag_pos, z_row = op.Tq * z_pos;
  const RowWalk<width, sizeof(Unit) / sizeof(T)> walk(threads);
#pragma unroll 1
  for (int i = 0; i < walk.kColumns; ++i) {
    const int column = walk.column(i);
    if (column >= op.D) return;
#pragma unroll 1
    for (int row = walk.first_row; row < rows; row += kAtOnce * walk.step) {
      const int64_t pos = first_pos + row;
      const bool* const flags = op.replace + pos * flag_pos + head;
      const T* const source = op.source + pos * s.pos + head * s.head + column;
      T* const z = op.z + pos * z_pos + head * op.D + column;
      Unit own[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        if (row + n * walk.step < rows)
          own[n] = *reinterpret_cast<const Unit*>(tile + (row + n * walk.step) * tile_stride + column);
      }
#pragma unroll 1
      for (int child = 0; child < children.count; ++child) {
        const int64_t c = children[child];
        const bool* const child_flags = flags + c * flag_row;
        const T* const donor = source + op.source_row[c] * s.row;
        T* const child_z = z + c * z_row;
        bool replaced[kAtOnce];
        Unit value[kAtOnce];
#pragma unroll
        for (int n = 0; n < kAtOnce; ++n)
          replaced[n] = row + n * walk.step < rows && child_flags[n * walk.step * flag_pos];
#pragma unroll
        for (int n = 0; n < kAtOnce; ++n) {
          value[n] = replaced[n] ? *reinterpret_cast<const Unit*>(donor + n * walk.step * s.pos) : own[n];
        }
#pragma unroll
        for (int n = 0; n < kAtOnce; ++n) {
          if (row + n * walk.step < rows) *reinterpret_cast<Unit*>(child_z + n * walk.step * z_pos) = value[n];
        }
      }
    }
  }
}

template <int width, typename T>
__device__ inline void write_children(const PatchedAttention<T>& op, const Children& children, int head,
                                      int64_t first_pos, int rows, const T* tile, int tile_stride, bool is_aligned,
                                      int threads) {
  if (is_aligned) {
    write_units<width, uint4>(op, children, head, first_pos, rows, tile, tile_stride, threads);
  } else {
    write_units<width, T>(op, children, head, first_pos, rows, tile, tile_stride, threads);
  }
}

// How many blocks share a parent's children. Attention is computed once per parent and head, unless there are so few
// parents that most of the GPU would idle while a few blocks write very many children: then each share computes it
// again, which costs no time.
inline int shares_for(int64_t blocks, int64_t P, int64_t C, int multiprocessors) {
  const int64_t wanted = ceil_div(4 * multiprocessors, blocks), children = ceil_div(C, P);
  return static_cast<int>(wanted < children ? wanted : children);
}

}  // namespace pilot::cuda
