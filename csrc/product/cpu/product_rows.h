// product on the CPU, compiled once for each instruction set: see cpu/kernels.h. Included after PILOT_ISA is defined,
// and after the standard headers, which must not be compiled for it.
//
// A tile of the result lives in registers while its rows of x, a number at a time, meet two vectors of the matrix: as
// many rows as the registers hold. The matrix is read as it is, row by row; only columns that do not fill two vectors
// are first copied beside zeros. A row's sum runs over k in order whatever tile it is in, so its bits do not depend on
// how rows are divided among tiles and threads.
#pragma once

#include "cpu/vectors.h"
#include "product/product.h"

namespace pilot::PILOT_ISA {
namespace {

// So many of k's steps at a time: the columns of a tile, and the rows of x, then stay in the caches beside each other.
constexpr int64_t kProductDepth = 384;

// So many rows of x share what is read of the matrix.
constexpr int64_t kProductRows = 112;

template <typename S>
class RowProduct {
  using T = typename S::T;
  using V = typename S::V;
  static constexpr int kWidth = 2;  // vectors
  static constexpr int kColumns = kWidth * S::N;
  static constexpr int kTileRows = S::N * sizeof(T) == 64 ? 14 : 6;  // 28 of 32 registers, 12 of 16

 public:
  // Columns that do not fill a tile, beside zeros.
  struct Scratch {
    alignas(64) T columns[kProductDepth][kColumns];
  };

  // What is multiplied: x (rows, K) with K <= kProductDepth, matrix (K, N); `bias` may be null.
  const T* x;
  int64_t x_stride;
  const T* matrix;
  int64_t matrix_stride;
  const T* bias;
  bool add;
  int64_t K, N;

  // *out[r], of N numbers, becomes or gains x[r] @ matrix + bias, for each of `rows` rows.
  void write(T* const* out, int64_t rows, Scratch& scratch) const {
    for (int64_t column = 0; column < N; column += kColumns) {
      const T* from = matrix + column;
      int64_t stride = matrix_stride;
      const int64_t n = N - column < kColumns ? N - column : kColumns;
      if (n < kColumns) {
        for (int64_t k = 0; k < K; ++k) {
          for (int64_t j = 0; j < kColumns; ++j) scratch.columns[k][j] = j < n ? from[k * stride + j] : T(0);
        }
        from = scratch.columns[0];
        stride = kColumns;
      }
      static constexpr Tiles kTiles = tiles(std::make_integer_sequence<int, kTileRows>{});
      const int64_t groups = (rows + kTileRows - 1) / kTileRows;
      for (int64_t group = 0; group < groups; ++group) {  // of as equal a size as can be
        const int64_t first = rows * group / groups, last = rows * (group + 1) / groups;
        (this->*kTiles.of_rows[last - first])(x + first * x_stride, from, stride, out + first, column, n);
      }
    }
  }

 private:
  using Tile = void (RowProduct::*)(const T*, const T*, int64_t, T* const*, int64_t, int64_t) const;

  template <int Rows>
  void tile(const T* x, const T* from, int64_t stride, T* const* out, int64_t column, int64_t n) const {
    V sum[Rows][kWidth] = {};
    for (int64_t k = 0; k < K; ++k, from += stride) {
      V b[kWidth];
      PILOT_UNROLL
      for (int w = 0; w < kWidth; ++w) b[w] = S::load(from + w * S::N);
      PILOT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        PILOT_UNROLL
        for (int w = 0; w < kWidth; ++w) sum[r][w] += b[w] * x[r * x_stride + k];
      }
    }
    PILOT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      PILOT_UNROLL
      for (int w = 0; w < kWidth; ++w) {
        const int64_t at = column + w * S::N, left = n - w * S::N;
        if (left >= S::N) {
          if (bias != nullptr) sum[r][w] += S::load(bias + at);
          if (add) sum[r][w] += S::load(out[r] + at);
          S::store(out[r] + at, sum[r][w]);
        } else if (left > 0) {
          if (bias != nullptr) sum[r][w] += S::load(bias + at, left);
          if (add) sum[r][w] += S::load(out[r] + at, left);
          S::store(out[r] + at, sum[r][w], left);
        }
      }
    }
  }

  struct Tiles {
    Tile of_rows[kTileRows + 1];
  };
  template <int... Rows>
  static constexpr Tiles tiles(std::integer_sequence<int, Rows...>) {
    return {{nullptr, &RowProduct::template tile<Rows + 1>...}};
  }
};

// Rows first to last, exclusive.
template <typename S>
void product_rows(const Product<typename S::T>& op, int64_t first, int64_t last) {
  using T = typename S::T;
  typename RowProduct<S>::Scratch scratch;
  T* out[kProductRows];
  for (int64_t m = first; m < last; m += kProductRows) {
    const int64_t rows = last - m < kProductRows ? last - m : kProductRows;
    for (int64_t r = 0; r < rows; ++r) out[r] = op.out + (m + r) * op.out_stride;
    for (int64_t k = 0; k == 0 || k < op.K; k += kProductDepth) {
      const int64_t depth = op.K - k < kProductDepth ? op.K - k : kProductDepth;
      const RowProduct<S> part{op.x + m * op.x_stride + k,
                               op.x_stride,
                               op.matrix + k * op.matrix_stride,
                               op.matrix_stride,
                               k == 0 ? op.bias : nullptr,
                               op.add || k > 0,
                               depth,
                               op.N};
      part.write(out, rows, scratch);
    }
  }
}

}  // namespace
}  // namespace pilot::PILOT_ISA
