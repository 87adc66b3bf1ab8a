// Tiles: some positions of one head, in shared memory.
#pragma once

#include "patched_attention/cuda/numeric.cuh"
#include "patched_attention/patched_attention.h"

namespace pilot::cuda {

constexpr int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

// 16-byte accesses are possible: to every head and position of a tensor, `strides` apart.
template <typename T>
bool aligned(const T* data, const Strides& strides, int64_t D) {
  return (reinterpret_cast<uintptr_t>(data) | ((strides.row | strides.pos | strides.head | D) * sizeof(T))) % 16 == 0;
}

// How a block's threads share a tile's rows of `width` values, in units of `unit` values: a thread keeps to its column
// (or columns, where a row is longer than a warp) and takes every step-th row.
template <int width, int unit>
struct RowWalk {
  static constexpr int kUnits = width / unit, kLanes = kUnits < 32 ? kUnits : 32, kColumns = kUnits / kLanes;
  int first_row, first_column, step;

  __device__ explicit RowWalk(int threads)
      : first_row(threadIdx.x / kLanes), first_column(threadIdx.x % kLanes * unit), step(threads / kLanes) {}

  __device__ int column(int i) const { return first_column + i * kLanes * unit; }
};

// Fetches `rows` rows of D values, `stride` apart in global memory, into a tile of `tile_rows` rows of which each holds
// `width` values and is `tile_stride` long. What the tile has and the tensor has not is zero: a NaN left there would
// survive a weight of 0. All `threads` of the block call this. The tile is there after wait_for_copies() and a barrier.
template <int width, typename T>
__device__ inline void load_tile(T* tile, int tile_rows, int tile_stride, const T* from, int64_t stride, int rows,
                                 int D, bool is_aligned, int threads) {
  constexpr int kUnit = kPerUnit<T>;
  const RowWalk<width, kUnit> walk(threads);
#pragma unroll
  for (int i = 0; i < walk.kColumns; ++i) {
    const int column = walk.column(i);
    T* to = tile + walk.first_row * tile_stride + column;
    const T* here = from + walk.first_row * stride + column;
    if (is_aligned) {
#pragma unroll 4
      for (int row = walk.first_row; row < tile_rows; row += walk.step) {
        copy_async(to, here, row < rows && column < D);
        to += walk.step * tile_stride, here += walk.step * stride;
      }
    } else {
#pragma unroll 1
      for (int row = walk.first_row; row < tile_rows; row += walk.step) {
#pragma unroll
        for (int e = 0; e < kUnit; ++e) to[e] = row < rows && column + e < D ? here[e] : T{};
        to += walk.step * tile_stride, here += walk.step * stride;
      }
    }
  }
}

}  // namespace pilot::cuda
