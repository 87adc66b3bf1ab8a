// patched_attention on the CPU: checks, the list of each parent's children, and the kernel over (parent, head) pairs.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>

#include "cpu/capability.h"
#include "patched_attention/binding.h"

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

void* thread_scratch() {
  struct alignas(64) Scratch {
    std::byte bytes[kScratchBytes];
  };
  thread_local const std::unique_ptr<Scratch> scratch(new Scratch);
  return scratch->bytes;
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
  constexpr int64_t kMultipliesPerPart = 200'000;
  const int64_t grain = 1 + kMultipliesPerPart * shares / (op.Tq * op.Tk * op.D);
  at::parallel_for(0, heads * shares, grain,
                   [&](int64_t first, int64_t last) { attend(op, children, shares, first, last, thread_scratch()); });
}

struct Cpu {
  static constexpr std::initializer_list<at::ScalarType> kDtypes = {at::kFloat, at::kDouble};

  static void attend_into(const Arguments& given, std::optional<double> scale, const at::Tensor& z) {
    if (z.numel() == 0) return;
    const Arguments a = with_contiguous_indexes(given);
    check_indexes(a);
    if (z.scalar_type() == at::kFloat) {
      run(describe<float>(a, scale, z));
    } else {
      run(describe<double>(a, scale, z));
    }
  }
};

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CPU, m) {
  m.impl("patched_attention", &pilot::Binding<pilot::Cpu>::patched_attention);
  m.impl("patched_attention_out", &pilot::Binding<pilot::Cpu>::patched_attention_out);
}
