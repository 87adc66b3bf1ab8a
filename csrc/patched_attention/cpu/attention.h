// Causal attention on the CPU, compiled once for each instruction set: see cpu/kernels.h. Included after PILOT_ISA is
// defined, and after the standard headers, which must not be compiled for it.
//
// For one head of one parent it takes a block of queries at a time, one query a vector lane:
//
//   scores    s[j][lane] = k[j] . q[lane]         queries transposed once; every k[j][d] is a broadcast
//   softmax   down j: maxima, exponentials and sums are whole-vector operations, nothing is reduced across lanes
//   values    o[i][:] = sum_j p[j][i] v[j][:]     lanes along head_dim now; every p[j][i] is a broadcast
//   hand out  each child's row is o[i] / sum[i], or the source row that replaces it
//
// Keys come in blocks, and later blocks rescale what the earlier ones left (online softmax), so scratch stays in the
// L1 cache however long the sequence is. A key after a query is never multiplied into its row, not even by 0.
#pragma once

#include <cmath>

#include "cpu/vectors.h"
#include "patched_attention/cpu/children.h"
#include "patched_attention/patched_attention.h"

namespace pilot::PILOT_ISA {
namespace {

constexpr int64_t kKeyBlock = 128;

// One head of one parent, a vector of S::N queries at a time.
template <typename S>
class Head {
  using T = typename S::T;
  using V = typename S::V;
  static constexpr int N = S::N;
  static constexpr int kKeyTile = 8;
  static constexpr int kRowTile = N < 4 ? N : 4;
  static_assert(kKeyBlock % kKeyTile == 0 && N % kRowTile == 0);

  struct Scratch {
    T queries[kMaxHeadDim + N][N];
    T weights[kKeyBlock][N];
    T output[N][kMaxHeadDim + N];
    T values[kKeyBlock][kMaxHeadDim + N];  // used where head_dim is no multiple of N: rows padded with zeros
    T factor[N];
  };
  static_assert(sizeof(Scratch) <= kScratchBytes);

  const PatchedAttention<T>& op;
  const int64_t* const child;
  const int64_t n_children, head, padded_D;
  const T *const q, *const k, *const v;
  Scratch& scratch;

 public:
  Head(const PatchedAttention<T>& op, const Children& children, int64_t parent, int64_t head, void* scratch)
      : op(op),
        child(children.row + children.begin[parent]),
        n_children(children.begin[parent + 1] - children.begin[parent]),
        head(head),
        padded_D((op.D + N - 1) / N * N),
        q(op.q + parent * op.q_strides.row + head * op.q_strides.head),
        k(op.k + parent * op.k_strides.row + head / (op.H / op.H_kv) * op.k_strides.head),
        v(op.v + parent * op.v_strides.row + head / (op.H / op.H_kv) * op.v_strides.head),
        scratch(*static_cast<Scratch*>(scratch)) {}

  // Queries first to first + n, exclusive; n is at most S::N.
  void run(int64_t first, int64_t n) {
    if (any_child_wants(first, n)) attend(first, n);
    hand_out(first, n);
  }

 private:
  const bool* replace(int64_t c, int64_t i) const { return op.replace + (c * op.Tq + i) * op.H + head; }

  bool any_child_wants(int64_t first, int64_t n) const {
    for (int64_t c = 0; c < n_children; ++c) {
      const bool* flag = replace(child[c], first);
      for (int64_t i = 0; i < n; ++i, flag += op.H) {
        if (!*flag) return true;
      }
    }
    return false;
  }

  // Leaves the weighted sums of values in scratch.output and what to multiply them by in scratch.factor.
  void attend(int64_t first, int64_t n) {
    load_queries(first, n);
    const int64_t first_position = op.Tk - op.Tq + first;
    const int64_t n_visible = first_position + n;  // keys that the last of these queries sees
    V maximum = S::splat(Format<T>::lowest), sum{};
    for (int64_t j = 0; j < n_visible; j += kKeyBlock) {
      const int64_t n_keys = n_visible - j < kKeyBlock ? n_visible - j : kKeyBlock;
      const V new_maximum = scores(j, n_keys, first_position, maximum);
      const V rescale = S::exp2(maximum - new_maximum);
      maximum = new_maximum;
      sum = sum * rescale + exponentials(n_keys, maximum);
      S::store(scratch.factor, rescale);
      values(j, n_keys, first_position, n);
    }
    S::store(scratch.factor, S::splat(T(1)) / sum);
  }

  // scratch.queries[d][lane] = q[first + lane][d] * scale / log 2: the softmax is computed with powers of two.
  void load_queries(int64_t first, int64_t n) {
    const V scale = S::splat(static_cast<T>(op.scale * 1.4426950408889634));
    const T* row = q + first * op.q_strides.pos;
    for (int64_t d = 0; d < op.D; d += N) {
      V tile[N];
      PILOT_UNROLL
      for (int lane = 0; lane < N; ++lane) {
        const T* from = row + lane * op.q_strides.pos + d;
        tile[lane] = lane >= n ? V{} : scale * (op.D - d >= N ? S::load(from) : S::load(from, op.D - d));
      }
      S::transpose(tile);
      PILOT_UNROLL
      for (int i = 0; i < N; ++i) S::store(scratch.queries[d + i], tile[i]);
    }
  }

  // scratch.weights[j][lane] = score of key j0 + j, -infinity where it comes after the query. Returns the maxima.
  V scores(int64_t j0, int64_t n_keys, int64_t first_position, V maximum) {
    const V lane_numbers = S::lane_numbers();
    for (int64_t j = 0; j < n_keys; j += kKeyTile) {
      const T* key[kKeyTile];
      PILOT_UNROLL
      for (int i = 0; i < kKeyTile; ++i) {  // past the end: the last key again, which the mask hides
        key[i] = k + (j0 + (j + i < n_keys ? j + i : n_keys - 1)) * op.k_strides.pos;
      }
      V score[kKeyTile] = {};
      for (int64_t d = 0; d < op.D; ++d) {
        const V query = S::load(scratch.queries[d]);
        PILOT_UNROLL
        for (int i = 0; i < kKeyTile; ++i) score[i] += query * key[i][d];
      }
      const bool some_hidden = j0 + j + kKeyTile - 1 > first_position;
      PILOT_UNROLL
      for (int i = 0; i < kKeyTile; ++i) {
        if (some_hidden) {
          const V first_seer = S::splat(static_cast<T>(j0 + j + i - first_position));
          score[i] = lane_numbers < first_seer ? S::splat(static_cast<T>(-HUGE_VAL)) : score[i];
        }
        maximum = S::max(score[i], maximum);
        S::store(scratch.weights[j + i], score[i]);
      }
    }
    return maximum;
  }

  // scratch.weights = 2^(scratch.weights - maximum). Returns the sums.
  V exponentials(int64_t n_keys, V maximum) {
    V sum{};
    for (int64_t j = 0; j < n_keys; ++j) {
      const V power = S::exp2(S::load(scratch.weights[j]) - maximum);
      S::store(scratch.weights[j], power);
      sum += power;
    }
    return sum;
  }

  // scratch.output[i] = scratch.output[i] * factor[i] + sum over the keys that query i sees of weight * value.
  void values(int64_t j0, int64_t n_keys, int64_t first_position, int64_t n) {
    const T* from = v + j0 * op.v_strides.pos;
    int64_t stride = op.v_strides.pos;
    if (op.D != padded_D) {
      for (int64_t j = 0; j < n_keys; ++j) {
        T* to = scratch.values[j];
        for (int64_t d = 0; d < op.D; ++d) to[d] = from[j * stride + d];
        for (int64_t d = op.D; d < padded_D; ++d) to[d] = T(0);
      }
      from = scratch.values[0];
      stride = kMaxHeadDim + N;
    }
    for (int64_t i = 0; i < n; i += kRowTile) {
      const int64_t seen = first_position + i + 1 - j0;  // keys of this block that row i of the tile sees
      if (seen + kRowTile - 1 <= 0) continue;
      int64_t d = 0;
      for (; d + 4 * N <= padded_D; d += 4 * N) value_tile<4>(from + d, stride, n_keys, seen, i, d, j0 == 0);
      if (d + 2 * N <= padded_D) {
        value_tile<2>(from + d, stride, n_keys, seen, i, d, j0 == 0);
        d += 2 * N;
      }
      if (d < padded_D) value_tile<1>(from + d, stride, n_keys, seen, i, d, j0 == 0);
    }
  }

  // kRowTile rows by Width vectors of the product of weights and values.
  template <int Width>
  PILOT_INLINE void value_tile(const T* from, int64_t stride, int64_t n_keys, int64_t seen, int64_t i, int64_t d,
                               bool is_first) {
    V sum[kRowTile][Width];
    PILOT_UNROLL
    for (int r = 0; r < kRowTile; ++r) {
      PILOT_UNROLL
      for (int w = 0; w < Width; ++w) {
        sum[r][w] = is_first ? V{} : S::load(scratch.output[i + r] + d + w * N) * scratch.factor[i + r];
      }
    }
    const int64_t n_common = seen < 0 ? 0 : seen < n_keys ? seen : n_keys;
    for (int64_t j = 0; j < n_common; ++j) add_value<Width, 0>(from + j * stride, scratch.weights[j] + i, sum);
    add_later_values<Width, 1>(from, stride, n_keys, seen, i, sum);
    PILOT_UNROLL
    for (int r = 0; r < kRowTile; ++r) {
      PILOT_UNROLL
      for (int w = 0; w < Width; ++w) S::store(scratch.output[i + r] + d + w * N, sum[r][w]);
    }
  }

  // One key's value into rows First and after.
  template <int Width, int First>
  static PILOT_INLINE void add_value(const T* value, const T* weight, V (&sum)[kRowTile][Width]) {
    V x[Width];
    PILOT_UNROLL
    for (int w = 0; w < Width; ++w) x[w] = S::load(value + w * N);
    PILOT_UNROLL
    for (int r = First; r < kRowTile; ++r) {
      PILOT_UNROLL
      for (int w = 0; w < Width; ++w) sum[r][w] += x[w] * weight[r];
    }
  }

  // The keys that row First and after see, and row First - 1 does not.
  template <int Width, int First>
  PILOT_INLINE void add_later_values(const T* from, int64_t stride, int64_t n_keys, int64_t seen, int64_t i,
                                     V (&sum)[kRowTile][Width]) {
    if constexpr (First < kRowTile) {
      const int64_t j = seen + First - 1;
      if (j >= 0 && j < n_keys) add_value<Width, First>(from + j * stride, scratch.weights[j] + i, sum);
      add_later_values<Width, First + 1>(from, stride, n_keys, seen, i, sum);
    }
  }

  void hand_out(int64_t first, int64_t n) {
    for (int64_t c = 0; c < n_children; ++c) {
      const int64_t row = child[c];
      const T* source = op.source + op.source_row[row] * op.source_strides.row + head * op.source_strides.head;
      T* z = op.z + ((row * op.Tq + first) * op.H + head) * op.D;
      const bool* flag = replace(row, first);
      for (int64_t i = 0; i < n; ++i, z += op.H * op.D, flag += op.H) {
        if (*flag) {
          copy(source + (first + i) * op.source_strides.pos, z);
        } else {
          copy_scaled(scratch.output[i], scratch.factor[i], z);
        }
      }
    }
  }

  void copy(const T* from, T* to) const {
    int64_t d = 0;
    for (; d + N <= op.D; d += N) S::store(to + d, S::load(from + d));
    if (d < op.D) std::memcpy(to + d, from + d, (op.D - d) * sizeof(T));
  }

  void copy_scaled(const T* from, T factor, T* to) const {
    int64_t d = 0;
    for (; d + N <= op.D; d += N) S::store(to + d, S::load(from + d) * factor);
    for (; d < op.D; ++d) to[d] = from[d] * factor;
  }
};

// Asks for one head's rows of q, k or v, to be in the second-level cache when their turn comes. Always inline: GCC
// takes a function that only prefetches for one without effect, and leaves out the call.
template <typename T>
PILOT_INLINE void prefetch(const T* row, int64_t stride, int64_t positions, int64_t D) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < positions; ++i, row += stride) {
    for (int64_t d = 0; d < D; d += kLine) PILOT_PREFETCH(row + d);
  }
}

// The same head of the next parent. A head's rows are short pieces far apart, which the hardware does not see coming;
// one parent ahead is long enough for memory to answer. Long sequences do work enough on each row to hide the wait, and
// only they have their queries shared.
template <typename T>
PILOT_INLINE void prefetch_next_parent(const PatchedAttention<T>& op, int64_t item, int64_t last) {
  constexpr int64_t kShort = 64;
  if (op.Tk > kShort || item + op.H >= last) return;
  const int64_t parent = item / op.H + 1, head = item % op.H, kv_head = head / (op.H / op.H_kv);
  prefetch(op.q + parent * op.q_strides.row + head * op.q_strides.head, op.q_strides.pos, op.Tq, op.D);
  prefetch(op.k + parent * op.k_strides.row + kv_head * op.k_strides.head, op.k_strides.pos, op.Tk, op.D);
  prefetch(op.v + parent * op.v_strides.row + kv_head * op.v_strides.head, op.v_strides.pos, op.Tk, op.D);
}

// Kernels::attend. `Narrow` vectors take the last queries where they hold all of them: 22 positions are 16 + 8 lanes,
// not 16 + 16.
template <typename Wide, typename Narrow>
void attend_heads(const PatchedAttention<typename Wide::T>& op, const Children& children, int64_t shares, int64_t first,
                  int64_t last, void* scratch) {
  for (int64_t item = first; item < last; ++item) {
    prefetch_next_parent(op, item, last);
    const int64_t head = item % op.H, parent = item / op.H % op.P, share = item / op.H / op.P;
    Head<Wide> wide(op, children, parent, head, scratch);
    Head<Narrow> narrow(op, children, parent, head, scratch);
    for (int64_t i = share * Wide::N; i < op.Tq; i += shares * Wide::N) {
      const int64_t n = op.Tq - i < Wide::N ? op.Tq - i : Wide::N;
      if (n <= Narrow::N) {
        narrow.run(i, n);
      } else {
        wide.run(i, n);
      }
    }
  }
}

}  // namespace
}  // namespace pilot::PILOT_ISA
