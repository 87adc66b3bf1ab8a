#include "patched_attention/cuda/attention.h"
#include "patched_attention/cuda/attention_mma.cuh"

namespace pilot::cuda {

template <>
cudaError_t attention_long(const PatchedAttention<__nv_bfloat16>& op, const Plan& plan, const Device& device,
                           cudaStream_t stream) {
  return attention_mma<__nv_bfloat16>(op, plan, device, stream);
}

}  // namespace pilot::cuda
