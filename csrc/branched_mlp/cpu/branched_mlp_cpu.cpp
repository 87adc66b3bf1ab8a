// branched_mlp on the CPU.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "branched_mlp/branched_mlp.h"
#include "common/memory_safety.h"
#include "cpu/capability.h"
#include "cpu/scratch.h"

namespace pilot {
namespace {

struct Arguments {
  const at::Tensor &state, &terms, &member;
  const std::optional<at::Tensor>&in_bias, &out_bias;
  const at::Tensor& mlp_out;
  double eps;
  Activation activation;
  const at::Tensor& out;
};

Activation activation_of(std::string_view name) {
  const auto found = std::find(std::begin(kActivations), std::end(kActivations), name);
  TORCH_CHECK(found != std::end(kActivations), "no activation is called ", name);
  return static_cast<Activation>(found - std::begin(kActivations));
}

template <typename T>
BranchedMlp<T> describe(const Arguments& a) {
  BranchedMlp<T> op;
  op.K = a.terms.size(0), op.N = a.state.size(0), op.B = a.state.size(1), op.W = a.state.size(2);
  op.C = a.member.size(0), op.m = a.mlp_out.size(0), op.d = a.mlp_out.size(1);
  const bool gated = a.activation == Activation::kSiluGated || a.activation == Activation::kGeluTanhGated;
  op.h = gated ? 2 * op.m : op.m;
  op.state = data<T>(a.state, {op.N, op.B, op.W, op.d + op.h});
  op.terms = data<T>(a.terms, {op.K, op.N, op.B, op.W, op.d + op.h});
  TORCH_CHECK(a.member.sizes() == at::IntArrayRef({op.C, op.B, op.W, op.K}) && a.member.device().is_cpu(),
              "expected a member of shape (C, B, W, K) on the CPU");
  op.member = a.member.const_data_ptr<bool>();
  op.in_bias = a.in_bias ? data<T>(*a.in_bias, {op.h}) : nullptr;
  op.out_bias = a.out_bias ? data<T>(*a.out_bias, {op.d}) : nullptr;
  op.mlp_out = data<T>(a.mlp_out, {op.m, op.d});
  op.out = mutable_data<T>(a.out, {op.N, op.C, op.B, op.W, op.d}, {a.state, a.terms, a.mlp_out});
  copy_strides(a.state, op.state_strides);
  copy_strides(a.terms, op.terms_strides);
  copy_strides(a.member, op.member_strides);
  copy_strides(a.out, op.out_strides);
  op.mlp_out_stride = a.mlp_out.stride(0);
  TORCH_CHECK(a.eps >= 0 && std::isfinite(a.eps), "expected a finite eps");
  op.eps = a.eps;
  op.activation = a.activation;
  return op;
}

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
  const Arguments a{state, terms, member, in_bias, out_bias, mlp_out, eps, activation_of(activation), out};
  AT_DISPATCH_FLOATING_TYPES(state.scalar_type(), "branched_mlp", [&] { run(describe<scalar_t>(a)); });
}

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CPU, m) { m.impl("branched_mlp", &pilot::branched_mlp); }
