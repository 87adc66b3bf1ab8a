// Tiles: some positions of one head, in shared memory.
#pragma once

#include "numeric.cuh"

namespace pilot::cuda {

constexpr int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

// 16-byte accesses are possible: to every head and position of a tensor, `strides` apart.
template <typename T>
bool aligned(const T* data, const Strides& strides, int64_t D) {
  return (reinterpret_cast<uintptr_t>(data) | ((strides.row | strides.pos | strides.head | D) * sizeof(T))) % 16 == 0;
}

// Fetches `rows` rows of D values, `stride` apart in global memory, into a tile of `tile_rows` rows of which each holds `width`
// values and is `tile_stride` long. What the tile has and the tensor has not is zero: a NaN left there would survive a weight of 0.
// All `threads` of the block call this, a multiple of the 16-byte units in a row, so that each keeps to its own column. The tile is
// there after wait_for_copies() and a barrier.
template <int width, typename T>
__device__ inline void load_tile(T* tile, int tile_rows, int tile_stride, const T* from, int64_t stride, int rows, int D,
                                 bool is_aligned, int threads) {
  constexpr int kUnit = kPerUnit<T>, kUnits = width / kUnit;
  const int column = threadIdx.x % kUnits * kUnit;
  for (int row = threadIdx.x / kUnits; row < tile_rows; row += threads / kUnits) {
    T* to = tile + row * tile_stride + column;
    const T* here = from + row * stride + column;
    if (is_aligned) {
      const bool valid = row < rows && column < D;
      copy_async(to, valid ? here : from, valid);
    } else {
#pragma unroll
      for (int e = 0; e < kUnit; ++e) to[e] = row < rows && column + e < D ? here[e] : T{};
    }
  }
}

}  // namespace pilot::cuda
