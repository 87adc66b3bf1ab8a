#include "patched_attention/cuda/attention.h"
#include "patched_attention/cuda/attention_fma.cuh"

namespace pilot::cuda {

template <>
cudaError_t attention_packed(const PatchedAttention<float>& op, const Plan& plan, const Device& device,
                             cudaStream_t stream) {
  return attention_fma<float, 2>(op, plan, 64, 64, device, stream);
}

}  // namespace pilot::cuda
