#include "patched_attention/cuda/attention.h"
#include "patched_attention/cuda/attention_fma.cuh"

namespace pilot::cuda {

template <>
cudaError_t attention_long(const PatchedAttention<float>& op, const Plan& plan, const Device& device,
                           cudaStream_t stream) {
  return attention_fma<float, 4>(op, plan, 128, 32, device, stream);
}

}  // namespace pilot::cuda
