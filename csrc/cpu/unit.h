// All of an instruction-set unit but its target: the walk over all heads, exp2 and gelu for the tests, and the kernels
// that kernel.h declares. The unit defines PILOT_ISA, and the bytes of its vectors as PILOT_WIDE and PILOT_NARROW; `Narrow`
// vectors take the last queries where they hold all of them: 22 positions are 16 + 8 lanes, not 16 + 16.
#pragma once

#include "attention_template.h"
#include "branched_template.h"

namespace pilot::PILOT_ISA {
namespace {

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

template <typename T, int kBytes>
using Vector = Simd<T, (kBytes > int(sizeof(T)) ? kBytes / int(sizeof(T)) : 1)>;

template <typename T>
void attend_heads(const PatchedAttention<T>& op, const Children& children, int64_t shares, int64_t first, int64_t last,
                  void* scratch) {
  using Wide = Vector<T, PILOT_WIDE>;
  using Narrow = Vector<T, PILOT_NARROW>;
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

template <typename S, typename S::V (*function)(typename S::V)>
void each(const typename S::T* x, typename S::T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += S::N) {
    const int64_t left = n - i < S::N ? n - i : S::N;
    S::store(y + i, function(S::load(x + i, left)), left);
  }
}

template <typename T>
constexpr Kernels<T> kernels_of() {
  using S = Vector<T, PILOT_WIDE>;
  return {attend_heads<T>, branched_hidden_rows<S>, each<S, S::exp2>, each<S, S::gelu>};
}

}  // namespace

const Kernels<float> float_kernels = kernels_of<float>();
const Kernels<double> double_kernels = kernels_of<double>();

}  // namespace pilot::PILOT_ISA
