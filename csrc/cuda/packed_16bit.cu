#include "attention.h"
#include "attention_fma.cuh"

namespace pilot::cuda {

template <typename T>
cudaError_t attention_packed(const PatchedAttention<T>& op, const Plan& plan, int multiprocessors, cudaStream_t stream) {
  return attention_fma<T, 2>(op, plan, 64, 64, multiprocessors, stream);
}

template cudaError_t attention_packed(const PatchedAttention<__half>&, const Plan&, int, cudaStream_t);
template cudaError_t attention_packed(const PatchedAttention<__nv_bfloat16>&, const Plan&, int, cudaStream_t);

}  // namespace pilot::cuda
