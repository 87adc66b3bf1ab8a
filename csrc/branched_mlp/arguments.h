// The operator's tensors, and what a kernel gets of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <string_view>

#include "branched_mlp/branched_mlp.h"
#include "common/memory_safety.h"

namespace pilot {

struct BranchedMlpArguments {
  const at::Tensor &state, &terms, &member;
  const std::optional<at::Tensor>&in_bias, &out_bias;
  const at::Tensor& mlp_out;
  double eps;
  std::string_view activation;
  const at::Tensor& out;
};

inline Activation activation_of(std::string_view name) {
  const auto found = std::find(std::begin(kActivations), std::end(kActivations), name);
  TORCH_CHECK(found != std::end(kActivations), "no activation is called ", name);
  return static_cast<Activation>(found - std::begin(kActivations));
}

// The contract's struct. Raises for what would be unsafe or has no meaning.
template <typename T>
BranchedMlp<T> describe(const BranchedMlpArguments& a) {
  const at::TensorOptions numbers = a.state.options();
  BranchedMlp<T> op;
  op.activation = activation_of(a.activation);
  const bool gated = op.activation == Activation::kSiluGated || op.activation == Activation::kGeluTanhGated;
  op.K = a.terms.size(0), op.N = a.state.size(0), op.B = a.state.size(1), op.W = a.state.size(2);
  op.C = a.member.size(0), op.m = a.mlp_out.size(0), op.d = a.mlp_out.size(1);
  op.h = gated ? 2 * op.m : op.m;
  op.state = data<T>(a.state, numbers, {op.N, op.B, op.W, op.d + op.h});
  op.terms = data<T>(a.terms, numbers, {op.K, op.N, op.B, op.W, op.d + op.h});
  TORCH_CHECK(a.member.sizes() == at::IntArrayRef({op.C, op.B, op.W, op.K}) && a.member.device().is_cpu(),
              "expected a member of shape (C, B, W, K) on the CPU");
  op.member = a.member.const_data_ptr<bool>();
  op.in_bias = a.in_bias ? data<T>(*a.in_bias, numbers, {op.h}) : nullptr;
  op.out_bias = a.out_bias ? data<T>(*a.out_bias, numbers, {op.d}) : nullptr;
  op.mlp_out = data<T>(a.mlp_out, numbers, {op.m, op.d});
  op.out = mutable_data<T>(a.out, numbers, {op.N, op.C, op.B, op.W, op.d}, {a.state, a.terms, a.mlp_out});
  copy_strides(a.state, op.state_strides);
  copy_strides(a.terms, op.terms_strides);
  copy_strides(a.member, op.member_strides);
  copy_strides(a.out, op.out_strides);
  op.mlp_out_stride = a.mlp_out.stride(0);
  TORCH_CHECK(a.eps >= 0 && std::isfinite(a.eps), "expected a finite eps");
  op.eps = a.eps;
  return op;
}

}  // namespace pilot
