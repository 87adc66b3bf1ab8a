// branched_attention on the CPU.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>

#include "branched_attention/branched_attention.h"
#include "common/memory_safety.h"
#include "cpu/capability.h"
#include "cpu/scratch.h"

namespace pilot {
namespace {

template <typename T>
void run(const BranchedAttention<T>& op) {
  const Kernels<T>& kernels = cpu::kernels<T>();
  const int64_t grain = 1 + kMultipliesPerPart / (2 * op.Q * (op.first + op.Q) * op.H / op.H_kv * op.D + 1);
  at::parallel_for(0, op.N * op.B * op.H_kv, grain, [&](int64_t first, int64_t last) {
    kernels.branched_attention(op, first, last, cpu::thread_scratch(kernels.branched_attention_scratch(op)));
  });
}

void branched_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& base_k,
                        const at::Tensor& base_v, int64_t start, int64_t first, double scale, std::optional<double> eps,
                        at::Tensor out) {
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "branched_attention", [&] {
    BranchedAttention<scalar_t> op;
    op.N = q.size(0), op.B = q.size(1), op.Q = q.size(2), op.H = q.size(3), op.D = q.size(4);
    op.W = k.size(2), op.H_kv = k.size(3);
    const int64_t E = base_k.size(1);
    TORCH_CHECK(op.H_kv > 0 && op.H % op.H_kv == 0, "expected heads that divide among those of k");
    TORCH_CHECK(start >= 0 && start + op.W <= E && first >= 0 && first + op.Q <= E, "expected positions before ", E);
    op.q = data<scalar_t>(q, q.options(), {op.N, op.B, op.Q, op.H, op.D});
    op.k = data<scalar_t>(k, q.options(), {op.N, op.B, op.W, op.H_kv, op.D});
    op.v = data<scalar_t>(v, q.options(), {op.N, op.B, op.W, op.H_kv, op.D});
    op.base_k = data<scalar_t>(base_k, q.options(), {op.B, E, op.H_kv, op.D});
    op.base_v = data<scalar_t>(base_v, q.options(), {op.B, E, op.H_kv, op.D});
    op.out = mutable_data<scalar_t>(out, q.options(), {op.N, op.B, op.Q, op.H, op.D}, {q, k, v, base_k, base_v});
    copy_strides(q, op.q_strides);
    copy_strides(k, op.k_strides);
    copy_strides(v, op.v_strides);
    copy_strides(base_k, op.base_k_strides);
    copy_strides(base_v, op.base_v_strides);
    copy_strides(out, op.out_strides);
    TORCH_CHECK(std::isfinite(scale) && eps.value_or(0) >= 0 && std::isfinite(eps.value_or(0)),
                "expected a finite scale and eps");
    op.start = start, op.first = first, op.scale = scale;
    op.normalises = eps.has_value(), op.eps = eps.value_or(0);
    run(op);
  });
}

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CPU, m) { m.impl("branched_attention", &pilot::branched_attention); }
