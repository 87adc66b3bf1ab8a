// branched_hidden on the CPU, compiled once for each instruction set: see cpu/kernels.h. Included after PILOT_ISA is
// defined, and after the standard headers, which must not be compiled for it.
//
// All branches of a row are computed before the next row, so that its state and terms are read from memory once. A
// total lives in registers, a tile of columns at a time: nothing is written but the results.
#pragma once

#include <cmath>

#include "branched_hidden/branched_hidden.h"
#include "cpu/vectors.h"

namespace pilot::PILOT_ISA {
namespace {

// One row of one branch, before anything is done with it: a row of state and those of the terms that the branch adds.
template <typename S>
struct Total {
  using T = typename S::T;
  using V = typename S::V;
  const T *state, *terms;
  const bool* member;
  int64_t K, terms_stride, member_stride;

  // Vectors at columns i, i + S::N, ...
  template <int Width>
  PILOT_INLINE void load(int64_t i, V (&x)[Width]) const {
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) x[j] = S::load(state + i + j * S::N);
    for (int64_t k = 0; k < K; ++k) {
      if (!member[k * member_stride]) continue;
      const T* term = terms + k * terms_stride + i;
      PILOT_UNROLL
      for (int j = 0; j < Width; ++j) x[j] += S::load(term + j * S::N);
    }
  }

  // The n columns from i, the rest zero.
  PILOT_INLINE V load(int64_t i, int64_t n) const {
    V x = S::load(state + i, n);
    for (int64_t k = 0; k < K; ++k) {
      if (member[k * member_stride]) x += S::load(terms + k * terms_stride + i, n);
    }
    return x;
  }
};

constexpr int kTile = 4;  // vectors

// after = total[:d] + out_bias. Returns the mean of the squares of total[:d].
template <typename S>
PILOT_INLINE typename S::T write_after(const Total<S>& total, const typename S::T* bias, int64_t d,
                                       typename S::T* after) {
  using V = typename S::V;
  V squares{};
  int64_t i = 0;
  for (; i + kTile * S::N <= d; i += kTile * S::N) {
    V x[kTile];
    total.load(i, x);
    PILOT_UNROLL
    for (int j = 0; j < kTile; ++j) {
      squares += x[j] * x[j];
      S::store(after + i + j * S::N, x[j] + S::load(bias + i + j * S::N));
    }
  }
  for (; i < d; i += S::N) {
    const int64_t n = d - i < S::N ? d - i : S::N;
    const V x = total.load(i, n);
    squares += x * x;
    S::store(after + i, x + S::load(bias + i, n), n);
  }
  return S::sum(squares) / d;
}

// hidden = gelu(total[d:] * scale + in_bias).
template <typename S>
PILOT_INLINE void write_hidden(const Total<S>& total, typename S::T scale, const typename S::T* bias, int64_t d,
                               int64_t m, typename S::T* hidden) {
  using V = typename S::V;
  int64_t i = 0;
  for (; i + kTile * S::N <= m; i += kTile * S::N) {
    V x[kTile];
    total.load(d + i, x);
    PILOT_UNROLL
    for (int j = 0; j < kTile; ++j) x[j] = x[j] * scale + S::load(bias + i + j * S::N);
    S::gelu(x);
    PILOT_UNROLL
    for (int j = 0; j < kTile; ++j) S::store(hidden + i + j * S::N, x[j]);
  }
  for (; i < m; i += S::N) {
    const int64_t n = m - i < S::N ? m - i : S::N;
    S::store(hidden + i, S::gelu(total.load(d + i, n) * scale + S::load(bias + i, n)), n);
  }
}

// Rows first to last, exclusive; row (n * B + b) * W + w is position w of pair b of node n, in all branches.
template <typename S>
void branched_hidden_rows(const BranchedHidden<typename S::T>& op, int64_t first, int64_t last) {
  using T = typename S::T;
  for (int64_t row = first; row < last; ++row) {
    const int64_t n = row / (op.B * op.W), b = row / op.W % op.B, w = row % op.W;
    Total<S> total{op.state + n * op.state_strides[0] + b * op.state_strides[1] + w * op.state_strides[2],
                   op.terms + n * op.terms_strides[1] + b * op.terms_strides[2] + w * op.terms_strides[3],
                   op.member + b * op.member_strides[1] + w * op.member_strides[2],
                   op.K,
                   op.terms_strides[0],
                   op.member_strides[3]};
    for (int64_t c = 0; c < op.C; ++c, total.member += op.member_strides[0]) {
      const int64_t to = ((n * op.C + c) * op.B + b) * op.W + w;
      const T mean_square = write_after(total, op.out_bias, op.d, op.after + to * op.d);
      const T scale = T(1) / std::sqrt(mean_square + static_cast<T>(op.eps));
      write_hidden(total, scale, op.in_bias, op.d, op.m, op.hidden + to * op.m);
    }
  }
}

}  // namespace
}  // namespace pilot::PILOT_ISA
