#include "attention.h"
#include "attention_mma.cuh"

namespace pilot::cuda {

template <>
cudaError_t attention_long(const PatchedAttention<__nv_bfloat16>& op, const Plan& plan, int multiprocessors, cudaStream_t stream) {
  return attention_mma<__nv_bfloat16>(op, plan, multiprocessors, stream);
}

}  // namespace pilot::cuda
