#include "branched_hidden/branched_hidden_checks.h"

#include <cmath>

#include "common/tensor_checks.h"

namespace pilot {

void check_arguments(const BranchedHiddenArguments& a) {
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

}  // namespace pilot
