// branched_hidden on the CPU, its only backend: the kernel over rows.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "branched_hidden/branched_hidden_checks.h"
#include "cpu/capability.h"

namespace pilot {
namespace {

template <typename T>
void run(const BranchedHidden<T>& op) {
  const auto branched_hidden = cpu::kernels<T>().branched_hidden;
  // Waking the other threads costs some microseconds: a part smaller than that is not worth one.
  constexpr int64_t kResultsPerPart = 100'000;
  const int64_t grain = 1 + kResultsPerPart / (op.C * (op.d + op.m));
  at::parallel_for(0, op.N * op.B * op.W, grain,
                   [&](int64_t first, int64_t last) { branched_hidden(op, first, last); });
}

void branched_hidden(const at::Tensor& state, const at::Tensor& terms, const at::Tensor& member,
                     const at::Tensor& in_bias, const at::Tensor& out_bias, double eps, at::Tensor hidden,
                     at::Tensor after) {
  const BranchedHiddenArguments a{state, terms, member, in_bias, out_bias, eps, hidden, after};
  check_arguments(a);
  if (hidden.numel() + after.numel() == 0) return;
  if (state.scalar_type() == at::kFloat) {
    run(describe<float>(a));
  } else {
    run(describe<double>(a));
  }
}

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CPU, m) { m.impl("branched_hidden", &pilot::branched_hidden); }
