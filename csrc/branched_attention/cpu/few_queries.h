// branched_attention on the CPU, compiled once for each instruction set: see cpu/kernels.h. Included after PILOT_ISA is
// defined, and after the standard headers, which must not be compiled for it.
//
// It is for few queries: vectors lie along head_dim, so that one query fills them. Up to four queries that share keys
// and values, of several heads or positions, are computed together, so that what is loaded of a key serves all of them.
// While one head is computed, what the next one reads is fetched. A key after a query is never multiplied into its
// output, not even by 0.
#pragma once

#include <cmath>

#include "branched_attention/branched_attention.h"
#include "cpu/vectors.h"

namespace pilot::PILOT_ISA {
namespace {

// A key and value head of a pair of a node: where its keys and values are.
template <typename T>
struct KeyHead {
  int64_t n, b, kv_head;
  const T** key;    // (n_keys,)
  const T** value;  // (n_keys,)
};

template <typename S>
class FewQueries {
  using T = typename S::T;
  using V = typename S::V;
  static constexpr int N = S::N;
  static constexpr int kMostRows = N < 4 ? N : 4;
  static constexpr int kWidth = N * sizeof(T) == 64 ? 4 : 2;  // vectors of output, for each row: 16 of 32 registers

  // A query and where its output goes. It sees the first n_keys keys.
  struct Row {
    const T* q;
    T* out;
    int64_t n_keys;
  };

  const BranchedAttention<T>& op;
  const int64_t n_keys, padded_keys;  // those that the last query sees; as many as fill vectors
  KeyHead<T> current, next;
  T* const inverse_rms;  // (padded_keys,)
  T* const weights;      // (kMostRows, padded_keys)

  static int64_t padded(int64_t keys) { return (keys + N - 1) / N * N; }

 public:
  FewQueries(const BranchedAttention<T>& op, void* scratch)
      : op(op),
        n_keys(op.first + op.Q),
        padded_keys(padded(n_keys)),
        current{0, 0, 0, static_cast<const T**>(scratch), static_cast<const T**>(scratch) + padded_keys},
        next{0, 0, 0, current.value + padded_keys, current.value + 2 * padded_keys},
        inverse_rms(reinterpret_cast<T*>(next.value + padded_keys)),
        weights(inverse_rms + padded_keys) {}

  static size_t scratch_bytes(const BranchedAttention<T>& op) {
    return padded(op.first + op.Q) * (4 * sizeof(const T*) + (1 + kMostRows) * sizeof(T));
  }

  // Heads first to last, exclusive; head (n * B + b) * H_kv + g is key and value head g of pair b of node n.
  void run(int64_t first, int64_t last) {
    find(first, next);
    for (int64_t head = first; head < last; ++head) {
      std::swap(current, next);
      if (head + 1 < last) find(head + 1, next);
      find_inverse_rms();
      const int64_t n_rows = op.Q * (op.H / op.H_kv);
      for (int64_t row = 0; row < n_rows;) row += attend(row, n_rows - row);
    }
  }

 private:
  // Always inline: GCC takes a function that only prefetches for one without effect, and leaves out the call.
  PILOT_INLINE void prefetch(const T* row) const {
    for (int64_t d = 0; d < op.D; d += 64 / sizeof(T)) PILOT_PREFETCH(row + d);
  }

  // Query i of head h, in q or in out.
  template <typename U>
  static U* query(U* x, const int64_t (&strides)[4], int64_t n, int64_t b, int64_t i, int64_t h) {
    return x + n * strides[0] + b * strides[1] + i * strides[2] + h * strides[3];
  }

  void find(int64_t head, KeyHead<T>& to) const {
    const int64_t n = to.n = head / op.H_kv / op.B, b = to.b = head / op.H_kv % op.B, g = to.kv_head = head % op.H_kv;
    const int64_t group = op.H / op.H_kv;
    for (int64_t row = 0; row < op.Q * group; ++row) {
      prefetch(query(op.q, op.q_strides, n, b, row / group, g * group + row % group));
    }
    const T* key = op.base_k + b * op.base_k_strides[0] + g * op.base_k_strides[2];
    const T* value = op.base_v + b * op.base_v_strides[0] + g * op.base_v_strides[2];
    for (int64_t j = 0; j < n_keys; ++j) {
      to.key[j] = key + j * op.base_k_strides[1];
      to.value[j] = value + j * op.base_v_strides[1];
    }
    key = op.k + n * op.k_strides[0] + b * op.k_strides[1] + g * op.k_strides[3];
    value = op.v + n * op.v_strides[0] + b * op.v_strides[1] + g * op.v_strides[3];
    for (int64_t j = op.start; j < own_end(); ++j, key += op.k_strides[2], value += op.v_strides[2]) {
      prefetch(to.key[j] = key);
      prefetch(to.value[j] = value);
    }
  }

  int64_t own_end() const { return op.start + op.W < n_keys ? op.start + op.W : n_keys; }

  // What keys and values are multiplied by: 1 but for the node's own, where those are to be normalised.
  void find_inverse_rms() {
    for (int64_t j = 0; j < n_keys; ++j) inverse_rms[j] = T(1);
    if (!op.normalises) return;
    for (int64_t j = op.start; j < own_end(); j += N) {
      const int64_t n = own_end() - j < N ? own_end() - j : N;
      V sum[N] = {};
      for (int64_t d = 0; d < op.D; d += N) {
        const int64_t lanes = op.D - d < N ? op.D - d : N;
        for (int i = 0; i < N; ++i) {
          const T* from = current.key[j + (i < n ? i : 0)] + d;
          const V x = lanes == N ? S::load(from) : S::load(from, lanes);
          sum[i] += x * x;
        }
      }
      T squares[N];
      S::store(squares, sums(sum));
      for (int i = 0; i < n; ++i) inverse_rms[j + i] = T(1) / std::sqrt(squares[i] / op.D + static_cast<T>(op.eps));
    }
  }

  // In lane i the sum of all lanes of x[i].
  static PILOT_INLINE V sums(V (&x)[N]) {
    S::transpose(x);
    PILOT_UNROLL
    for (int i = 1; i < N; ++i) x[0] += x[i];
    return x[0];
  }

  // The first rows of those that are left, as many as are computed together: returns how many. A row is a query
  // position and, counted faster, one of the heads that share these keys.
  int64_t attend(int64_t row, int64_t rows) {
    if constexpr (kMostRows >= 4) {
      if (rows >= 4) return attend_rows<4>(row);
    }
    if constexpr (kMostRows >= 2) {
      if (rows >= 2) return attend_rows<2>(row);
    }
    return attend_rows<1>(row);
  }

  template <int Rows>
  int64_t attend_rows(int64_t first) {
    Row rows[Rows];
    for (int r = 0; r < Rows; ++r) {
      const int64_t group = op.H / op.H_kv, i = (first + r) / group, h = current.kv_head * group + (first + r) % group;
      rows[r] = {query(op.q, op.q_strides, current.n, current.b, i, h),
                 query(op.out, op.out_strides, current.n, current.b, i, h), op.first + i + 1};
    }
    write_scores(rows);
    for (int r = 0; r < Rows; ++r) softmax(weights + r * padded_keys, rows[r].n_keys);
    int64_t d = 0;
    for (; d + kWidth * N <= op.D; d += kWidth * N) write_output<kWidth>(rows, d, N);
    for (; d < op.D; d += N) write_output<1>(rows, d, op.D - d < N ? op.D - d : N);
    return Rows;
  }

  // weights[r][j] = q[r] . key[j]: of N / Rows keys at a time, so that their sums fill a vector.
  template <int Rows>
  void write_scores(const Row (&rows)[Rows]) {
    constexpr int kKeys = N / Rows;
    const int64_t keys = rows[Rows - 1].n_keys;
    for (int64_t j = 0; j < keys; j += kKeys) {
      const T* key[kKeys];
      PILOT_UNROLL
      for (int i = 0; i < kKeys; ++i) key[i] = current.key[j + i < keys ? j + i : keys - 1];
      V sum[N] = {};
      int64_t d = 0;
      for (; d + N <= op.D; d += N) add_products(rows, key, d, N, sum);
      if (d < op.D) add_products(rows, key, d, op.D - d, sum);
      T scores[N];
      S::store(scores, sums(sum));
      PILOT_UNROLL
      for (int r = 0; r < Rows; ++r) std::memcpy(weights + r * padded_keys + j, scores + r * kKeys, kKeys * sizeof(T));
    }
  }

  template <int Rows>
  static PILOT_INLINE void add_products(const Row (&rows)[Rows], const T* const (&key)[N / Rows], int64_t d,
                                        int64_t lanes, V (&sum)[N]) {
    constexpr int kKeys = N / Rows;
    V q[Rows];
    PILOT_UNROLL
    for (int r = 0; r < Rows; ++r) q[r] = S::load(rows[r].q + d, lanes);
    PILOT_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      const V k = S::load(key[i] + d, lanes);
      PILOT_UNROLL
      for (int r = 0; r < Rows; ++r) sum[r * kKeys + i] += k * q[r];
    }
  }

  // A row's scores become what values are multiplied by. Powers of two: S has those.
  void softmax(T* row, int64_t keys) {
    const V lane = S::lane_numbers(), hidden = S::splat(static_cast<T>(-HUGE_VAL));
    const V scale = S::splat(static_cast<T>(op.scale * 1.4426950408889634));
    V maximum = S::splat(Format<T>::lowest);
    for (int64_t j = 0; j < keys; j += N) {
      const V score = S::load(row + j) * S::load(inverse_rms + j) * scale;
      const V seen = lane < S::splat(static_cast<T>(keys - j)) ? score : hidden;
      S::store(row + j, seen);
      maximum = S::max(seen, maximum);
    }
    T top[N];
    S::store(top, maximum);
    PILOT_UNROLL
    for (int half = N / 2; half > 0; half /= 2) {
      PILOT_UNROLL
      for (int i = 0; i < half; ++i) top[i] = top[i] > top[i + half] ? top[i] : top[i + half];
    }
    V sum{};
    for (int64_t j = 0; j < keys; j += N) {
      const V power = S::exp2(S::load(row + j) - top[0]);
      S::store(row + j, power);
      sum += power;
    }
    const V share = S::splat(T(1) / S::sum(sum));
    for (int64_t j = 0; j < keys; j += N) S::store(row + j, S::load(row + j) * share * S::load(inverse_rms + j));
  }

  // Columns d to d + Width * N of each row's output, the sum over its keys of weight * value.
  template <int Width, int Rows>
  PILOT_INLINE void write_output(const Row (&rows)[Rows], int64_t d, int64_t lanes) const {
    V sum[Rows][Width] = {};
    const int64_t seen_by_all = rows[0].n_keys;
    for (int64_t j = 0; j < seen_by_all; ++j) {
      V x[Width];
      PILOT_UNROLL
      for (int w = 0; w < Width; ++w) x[w] = S::load(current.value[j] + d + w * N, lanes);
      PILOT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        PILOT_UNROLL
        for (int w = 0; w < Width; ++w) sum[r][w] += x[w] * weights[r * padded_keys + j];
      }
    }
    PILOT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      for (int64_t j = seen_by_all; j < rows[r].n_keys; ++j) {
        PILOT_UNROLL
        for (int w = 0; w < Width; ++w) {
          sum[r][w] += S::load(current.value[j] + d + w * N, lanes) * weights[r * padded_keys + j];
        }
      }
      PILOT_UNROLL
      for (int w = 0; w < Width; ++w) S::store(rows[r].out + d + w * N, sum[r][w], lanes);
    }
  }
};

template <typename S>
void branched_attention_heads(const BranchedAttention<typename S::T>& op, int64_t first, int64_t last, void* scratch) {
  FewQueries<S>(op, scratch).run(first, last);
}

}  // namespace
}  // namespace pilot::PILOT_ISA
