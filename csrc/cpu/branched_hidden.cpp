// branched_hidden on the CPU, its only backend: checks, and the kernel over rows.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>

#include "../tensor_checks.h"
#include "kernel.h"

namespace pilot {
namespace {

struct HiddenArguments {
  const at::Tensor &state, &terms, &member, &in_bias, &out_bias;
  double eps;
  const at::Tensor &hidden, &after;
};

// Raises on a wrong dimension, shape, dtype, device or stride. pilot/ops/checks.py repeats this.
void check(const HiddenArguments& a) {
  const Named state{"state", a.state};
  check_dim(state, 4, "(N, B, W, d + m)");
  check_dim({"terms", a.terms}, 5, "(K, N, B, W, d + m)");
  check_dim({"member", a.member}, 4, "(C, B, W, K)");
  check_dim({"in_bias", a.in_bias}, 1, "(m,)");
  check_dim({"out_bias", a.out_bias}, 1, "(d,)");
  const int64_t N = a.state.size(0), B = a.state.size(1), W = a.state.size(2);
  const int64_t C = a.member.size(0), K = a.terms.size(0);
  const int64_t d = a.out_bias.size(0), m = a.in_bias.size(0);

  check_shape(state, {N, B, W, d + m}, "(N, B, W, d + m)");
  check_shape({"terms", a.terms}, {K, N, B, W, d + m}, "(K, N, B, W, d + m)");
  check_shape({"member", a.member}, {C, B, W, K}, "(C, B, W, K)");
  TORCH_CHECK_VALUE(a.eps >= 0 && std::isfinite(a.eps), "eps must be finite and not negative, not ", a.eps);

  check_computes("branched_hidden", a.state, {at::kFloat, at::kDouble});
  for (Named x : {Named{"terms", a.terms}, Named{"in_bias", a.in_bias}, Named{"out_bias", a.out_bias}}) {
    check_dtype(x, a.state.scalar_type());
    check_device(x, state);
  }
  check_dtype({"member", a.member}, at::kBool);
  check_device({"member", a.member}, state);
  for (Named x : {state, Named{"terms", a.terms}, Named{"in_bias", a.in_bias}, Named{"out_bias", a.out_bias}}) {
    check_last_contiguous(x);
  }

  const Named hidden{"hidden", a.hidden}, after{"after", a.after};
  check_out(hidden, {N, C, B, W, m}, "(N, C, B, W, m)", state);
  check_out(after, {N, C, B, W, d}, "(N, C, B, W, d)", state);
  for (Named out : {hidden, after}) {
    check_no_overlap(out, state);
    check_no_overlap(out, {"terms", a.terms});
  }
  check_no_overlap(hidden, after);
}

template <typename T>
BranchedHidden<T> describe(const HiddenArguments& a) {
  BranchedHidden<T> op;
  op.state = a.state.const_data_ptr<T>();
  op.terms = a.terms.const_data_ptr<T>();
  op.member = a.member.const_data_ptr<bool>();
  op.in_bias = a.in_bias.const_data_ptr<T>();
  op.out_bias = a.out_bias.const_data_ptr<T>();
  for (int i = 0; i < 3; ++i) op.state_strides[i] = a.state.stride(i);
  for (int i = 0; i < 4; ++i) op.terms_strides[i] = a.terms.stride(i);
  for (int i = 0; i < 4; ++i) op.member_strides[i] = a.member.stride(i);
  op.hidden = a.hidden.mutable_data_ptr<T>();
  op.after = a.after.mutable_data_ptr<T>();
  op.C = a.member.size(0), op.K = a.member.size(3);
  op.N = a.state.size(0), op.B = a.state.size(1), op.W = a.state.size(2);
  op.d = a.out_bias.size(0), op.m = a.in_bias.size(0);
  op.eps = a.eps;
  return op;
}

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
  const HiddenArguments a{state, terms, member, in_bias, out_bias, eps, hidden, after};
  check(a);
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
