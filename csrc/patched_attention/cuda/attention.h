// The attention kernels, each compiled in a file of its own so that they build side by side.
#pragma once

#include "cuda/launch.cuh"
#include "patched_attention/cuda/plan.cuh"
#include "patched_attention/patched_attention.h"

namespace pilot::cuda {

// Up to 64 keys: several heads a block.
template <typename T>
cudaError_t attention_packed(const PatchedAttention<T>& op, const Plan& plan, const Device& device,
                             cudaStream_t stream);

// Any number of keys.
template <typename T>
cudaError_t attention_long(const PatchedAttention<T>& op, const Plan& plan, const Device& device, cudaStream_t stream);

}  // namespace pilot::cuda
