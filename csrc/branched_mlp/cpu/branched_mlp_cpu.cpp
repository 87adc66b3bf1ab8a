// branched_mlp on the CPU.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "branched_mlp/arguments.h"
#include "cpu/capability.h"
#include "cpu/scratch.h"

namespace pilot {
namespace {

template <typename T>
void run(const BranchedMlp<T>& op) {
  const Kernels<T>& kernels = cpu::kernels<T>();
  const int64_t branches = op.N * op.B * op.W * op.C;
  const int64_t grain = 1 + kMultipliesPerPart / (op.m * op.d + 1);
  at::parallel_for(0, branches, grain, [&](int64_t first, int64_t last) {
    kernels.branched_mlp(op, first, last, cpu::thread_scratch(kernels.branched_mlp_scratch(op)));
  });
}

void branched_mlp(const at::Tensor& state, const at::Tensor& terms, const at::Tensor& member,
                  const std::optional<at::Tensor>& in_bias, const std::optional<at::Tensor>& out_bias,
                  const at::Tensor& mlp_out, double eps, std::string_view activation, at::Tensor out) {
  const BranchedMlpArguments a{state, terms, member, in_bias, out_bias, mlp_out, eps, activation, out};
  AT_DISPATCH_FLOATING_TYPES(state.scalar_type(), "branched_mlp", [&] { run(describe<scalar_t>(a)); });
}

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CPU, m) { m.impl("branched_mlp", &pilot::branched_mlp); }
