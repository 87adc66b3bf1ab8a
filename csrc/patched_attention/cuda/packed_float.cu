#include "patched_attention/cuda/attention_fma.cuh"

namespace pilot::cuda {

template cudaError_t launch_attention(const PatchedAttention<float>&, void*, cudaStream_t);

}  // namespace pilot::cuda
