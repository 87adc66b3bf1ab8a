// patched_attention and causal_attention for CUDA tensors: memory from PyTorch's allocator, its current stream, and
// attention to many keys. The only file in this folder that needs PyTorch.

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/library.h>

#include <limits>

#include "patched_attention/arguments.h"
#include "patched_attention/cuda/launcher.h"

namespace pilot {
namespace {

// Of all rows, by PyTorch: (P, Tq, H, D). Each query head has a key and value head of its own, as not all of PyTorch's
// kernels let them share one. PyTorch aligns its causal mask with the first key, not the last, and its kernels take the
// largest score for that of the largest product, which is wrong where the scale is not positive.
at::Tensor plain_attention(const PatchedAttentionArguments& a, double scale) {
  const int64_t queries = a.q.size(1), keys = a.k.size(1), heads_each = a.q.size(2) / a.k.size(2);
  const auto by_head = [&](const at::Tensor& x) {
    return (heads_each == 1 ? x : x.repeat_interleave(heads_each, 2)).transpose(1, 2);
  };
  at::Tensor q = a.q.transpose(1, 2);
  if (scale <= 0) q = q.mul(scale), scale = 1;
  std::optional<at::Tensor> mask;
  if (1 < queries && queries < keys)
    mask = at::ones({queries, keys}, q.options().dtype(at::kBool)).tril(keys - queries);
  return at::scaled_dot_product_attention(q, by_head(a.k), by_head(a.v), mask, 0.0, queries == keys, scale)
      .transpose(1, 2);
}

// The indexes are on the device and are checked there, while the stream runs: an assertion fails, as in PyTorch's own
// indexing.
template <typename T>
void attend_in(const PatchedAttentionArguments& a) {
  const PatchedAttention<T> op = describe<T>(a);
  if (a.out.numel() == 0) return;
  const c10::DeviceGuard guard(a.out.device());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  if (op.Tk > cuda::kFewKeys) {
    const at::Tensor z = plain_attention(a, op.scale);
    const Strides strides{z.stride(0), z.stride(1), z.stride(2)};
    const T* attention = data<T>(z, a.q.options(), a.q.sizes());
    C10_CUDA_CHECK(cuda::launch_fan_out(op, attention, strides, stream));
    return;
  }
  constexpr int64_t kMax = std::numeric_limits<int>::max();
  TORCH_CHECK(op.P <= kMax && op.C <= kMax, "q has ", op.P, " rows and parent has ", op.C, "; on CUDA each can have ",
              kMax);
  // Freed on return, reused by later work of the same stream only: the allocator keeps to its order.
  const auto bytes = static_cast<int64_t>(cuda::workspace_bytes(op.P, op.C));
  const at::Tensor workspace = at::empty({bytes}, a.q.options().dtype(at::kByte));
  C10_CUDA_CHECK(cuda::launch_attention(op, workspace.mutable_data_ptr(), stream));
}

void attend(const PatchedAttentionArguments& a) {
  switch (a.q.scalar_type()) {
    case at::kFloat:
      return attend_in<float>(a);
    case at::kHalf:
      return attend_in<__half>(a);
    case at::kBFloat16:
      return attend_in<__nv_bfloat16>(a);
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(false, "\"patched_attention\" not implemented for '", a.q.scalar_type(), "'");
  }
}

void patched_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& source,
                       const at::Tensor& parent, const at::Tensor& source_row, const at::Tensor& replace,
                       std::optional<double> scale, at::Tensor out) {
  attend({q, k, v, source, parent.contiguous(), source_row.contiguous(), replace.contiguous(), scale, out});
}

void causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, at::Tensor out) {
  attend(nothing_replaced(q, k, v, scale, out));
}

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CUDA, m) {
  m.impl("patched_attention", &pilot::patched_attention);
  m.impl("causal_attention", &pilot::causal_attention);
}
