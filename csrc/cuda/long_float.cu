#include "attention.h"
#include "attention_fma.cuh"

namespace pilot::cuda {

template <>
cudaError_t attention_long(const PatchedAttention<float>& op, const Plan& plan, int multiprocessors, cudaStream_t stream) {
  return attention_fma<float, 4>(op, plan, 128, 32, multiprocessors, stream);
}

}  // namespace pilot::cuda
