// patched_attention and causal_attention on the CPU: the list of each parent's children, and the kernel over (parent,
// head) pairs.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "cpu/capability.h"
#include "cpu/scratch.h"
#include "patched_attention/arguments.h"

namespace pilot {
namespace {

// Children by parent, in order (a counting sort). The memory belongs to the calling thread, which keeps the most that
// it has needed.
template <typename T>
Children children_of(const PatchedAttention<T>& op) {
  thread_local std::vector<int64_t> begin, row;
  begin.assign(op.P + 2, 0);
  row.resize(op.C);
  int64_t* next = begin.data() + 1;  // while rows are placed, next[p] is where parent p's next child goes
  for (int64_t c = 0; c < op.C; ++c) ++begin[op.parent[c] + 2];
  for (int64_t p = 0; p < op.P; ++p) next[p + 1] += next[p];
  for (int64_t c = 0; c < op.C; ++c) row[next[op.parent[c]]++] = c;
  return {begin.data(), row.data()};
}

template <typename T>
void run(const PatchedAttention<T>& op) {
  const Children children = children_of(op);
  const auto attend = cpu::kernels<T>().attend;
  // Where there are few heads for the threads, several threads share the queries of each, if it has many.
  constexpr int64_t kItemsPerThread = 4, kQueriesPerShare = 64;
  const int64_t heads = op.P * op.H;
  const int64_t shares = std::clamp(kItemsPerThread * at::get_num_threads() / heads, int64_t{1},
                                    (op.Tq + kQueriesPerShare - 1) / kQueriesPerShare);
  // Waking the other threads costs some microseconds: a part smaller than that is not worth one.
  constexpr int64_t kMultiplies = 200'000;
  const int64_t grain = 1 + kMultiplies * shares / (op.Tq * op.Tk * op.D);
  at::parallel_for(0, heads * shares, grain, [&](int64_t first, int64_t last) {
    attend(op, children, shares, first, last, cpu::thread_scratch(kScratchBytes));
  });
}

void check_range(const char* name, const int64_t* index, int64_t n, const char* of, int64_t rows) {
  for (int64_t c = 0; c < n; ++c) {
    TORCH_CHECK_INDEX(index[c] >= 0 && index[c] < rows, name, "[", c, "] is ", index[c], ", but ", of, " has ", rows,
                      " rows");
  }
}

void attend(const PatchedAttentionArguments& a) {
  AT_DISPATCH_FLOATING_TYPES(a.q.scalar_type(), "patched_attention", [&] {
    const auto op = describe<scalar_t>(a);
    if (a.out.numel() == 0) return;
    check_range("parent", op.parent, op.C, "q", op.P);
    check_range("source_row", op.source_row, op.C, "source", op.S);
    run(op);
  });
}

void patched_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& source,
                       const at::Tensor& parent, const at::Tensor& source_row, const at::Tensor& replace,
                       std::optional<double> scale, at::Tensor out) {
  attend({q, k, v, source, parent.contiguous(), source_row.contiguous(), replace.contiguous(), scale, out});
}

void causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, at::Tensor out) {
  attend(nothing_replaced(q, k, v, scale, out));
}

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CPU, m) {
  m.impl("patched_attention", &pilot::patched_attention);
  m.impl("causal_attention", &pilot::causal_attention);
}
