// patched_attention for CUDA tensors: checks, memory from PyTorch's allocator, its current stream. The only file in
// this folder that needs PyTorch.

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/library.h>

#include <limits>

#include "patched_attention/binding.h"
#include "patched_attention/cuda/launcher.h"

namespace pilot {
namespace {

// The indexes are on the device and are checked there, while the stream runs: an assertion fails, as in PyTorch's own
// indexing.
template <typename T>
void run(const Arguments& a, std::optional<double> scale, const at::Tensor& z) {
  const PatchedAttention<T> op = describe<T>(a, scale, z);
  constexpr int64_t kMax = std::numeric_limits<int>::max();
  TORCH_CHECK(op.P <= kMax && op.C <= kMax, "q has ", op.P, " rows and parent has ", op.C, "; on CUDA each can have ",
              kMax);
  // Freed on return, reused by later work of the same stream only: the allocator keeps to its order.
  const auto bytes = static_cast<int64_t>(cuda::workspace_bytes(op.P, op.C));
  const at::Tensor workspace = at::empty({bytes}, z.options().dtype(at::kByte));
  C10_CUDA_CHECK(
      cuda::launch_patched_attention(op, workspace.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream().stream()));
}

struct Cuda {
  static constexpr std::initializer_list<at::ScalarType> kDtypes = {at::kFloat, at::kHalf, at::kBFloat16};

  static void attend_into(const Arguments& given, std::optional<double> scale, const at::Tensor& z) {
    if (z.numel() == 0) return;
    const c10::cuda::CUDAGuard guard(z.device());
    const Arguments a = with_contiguous_indexes(given);
    if (z.scalar_type() == at::kFloat) {
      run<float>(a, scale, z);
    } else if (z.scalar_type() == at::kHalf) {
      run<__half>(a, scale, z);
    } else {
      run<__nv_bfloat16>(a, scale, z);
    }
  }
};

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CUDA, m) {
  m.impl("patched_attention", &pilot::Binding<pilot::Cuda>::patched_attention);
  m.impl("patched_attention_out", &pilot::Binding<pilot::Cuda>::patched_attention_out);
}
