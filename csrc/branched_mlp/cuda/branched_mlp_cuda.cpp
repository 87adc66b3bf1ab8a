// branched_mlp for CUDA tensors: a kernel makes the hidden units of some rows, and PyTorch multiplies them. The only
// file in this folder that needs PyTorch.

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/library.h>

#include "branched_mlp/arguments.h"
#include "branched_mlp/cuda/branch_rows.h"

namespace pilot {
namespace {

// Hidden units of so many rows stay in the second-level cache between the kernel and the product.
constexpr int64_t kHiddenBytes = 16 << 20;

template <typename T>
void run(const BranchedMlpArguments& a) {
  BranchedMlp<T> op = describe<T>(a);
  if (a.out.numel() == 0) return;
  const c10::DeviceGuard guard(a.out.device());
  const at::Tensor member = a.member.to(a.out.device()).contiguous();
  const at::Tensor out = a.out.is_contiguous() ? a.out : at::empty(a.out.sizes(), a.out.options());
  op.member = member.const_data_ptr<bool>();
  copy_strides(member, op.member_strides);
  op.out = static_cast<T*>(out.mutable_data_ptr());

  const at::Tensor out_rows = out.view({-1, op.d});
  const int64_t rows = out_rows.size(0);
  const auto row_bytes = static_cast<int64_t>(op.m * sizeof(T));
  const int64_t at_once = std::clamp<int64_t>(kHiddenBytes / std::max<int64_t>(row_bytes, 1), 1, rows);
  const at::Tensor hidden = at::empty({at_once, op.m}, a.out.options());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  for (int64_t first = 0; first < rows; first += at_once) {
    const int64_t n = std::min(at_once, rows - first);
    C10_CUDA_CHECK(cuda::launch_branch_rows(op, first, n, static_cast<T*>(hidden.mutable_data_ptr()), stream));
    out_rows.narrow(0, first, n).addmm_(hidden.narrow(0, 0, n), a.mlp_out);
  }
  if (!a.out.is_contiguous()) a.out.copy_(out);
}

void branched_mlp(const at::Tensor& state, const at::Tensor& terms, const at::Tensor& member,
                  const std::optional<at::Tensor>& in_bias, const std::optional<at::Tensor>& out_bias,
                  const at::Tensor& mlp_out, double eps, std::string_view activation, at::Tensor out) {
  const BranchedMlpArguments a{state, terms, member, in_bias, out_bias, mlp_out, eps, activation, out};
  switch (state.scalar_type()) {
    case at::kFloat:
      return run<float>(a);
    case at::kDouble:
      return run<double>(a);
    case at::kHalf:
      return run<__half>(a);
    case at::kBFloat16:
      return run<__nv_bfloat16>(a);
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(false, "\"branched_mlp\" not implemented for '", state.scalar_type(), "'");
  }
}

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CUDA, m) { m.impl("branched_mlp", &pilot::branched_mlp); }
