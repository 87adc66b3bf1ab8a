#include "patched_attention/cuda/attention.h"
#include "patched_attention/cuda/attention_fma.cuh"

namespace pilot::cuda {

template <typename T>
cudaError_t attention_packed(const PatchedAttention<T>& op, const Plan& plan, const Device& device,
                             cudaStream_t stream) {
  return attention_fma<T, 2>(op, plan, 64, 64, device, stream);
}

template cudaError_t attention_packed(const PatchedAttention<__half>&, const Plan&, const Device&, cudaStream_t);
template cudaError_t attention_packed(const PatchedAttention<__nv_bfloat16>&, const Plan&, const Device&, cudaStream_t);

}  // namespace pilot::cuda
