#include "patched_attention/cuda/attention.h"
#include "patched_attention/cuda/attention_mma.cuh"

namespace pilot::cuda {

template <>
cudaError_t attention_long(const PatchedAttention<__half>& op, const Plan& plan, const Device& device,
                           cudaStream_t stream) {
  return attention_mma<__half>(op, plan, device, stream);
}

}  // namespace pilot::cuda
