#include "attention.h"
#include "attention_fma.cuh"

namespace pilot::cuda {

template <>
cudaError_t attention_packed(const PatchedAttention<float>& op, const Plan& plan, int multiprocessors, cudaStream_t stream) {
  return attention_fma<float, 2>(op, plan, 64, 64, multiprocessors, stream);
}

}  // namespace pilot::cuda
