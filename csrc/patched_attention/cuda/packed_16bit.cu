#include "patched_attention/cuda/attention_fma.cuh"

namespace pilot::cuda {

template cudaError_t launch_attention(const PatchedAttention<__half>&, void*, cudaStream_t);
template cudaError_t launch_attention(const PatchedAttention<__nv_bfloat16>&, void*, cudaStream_t);

}  // namespace pilot::cuda
