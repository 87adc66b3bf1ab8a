// The CUDA side of patched_attention: raw pointers, a workspace and a stream, no PyTorch.
//
//   plan.cu                     which children each parent has
//   attention_fma.cuh           float32 of any length, and 16-bit types on short sequences: several heads a block
//   attention_mma.cuh           16-bit types on long sequences: tensor cores
//   launcher.cu                 chooses between them
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "patched_attention/patched_attention.h"

namespace pilot::cuda {

// Scratch memory that a launch needs, aligned to 16 bytes. Its contents mean nothing before and after.
size_t workspace_bytes(int64_t P, int64_t C);

// Enqueues the operator on `stream`, for T = float, __half, __nv_bfloat16. Never waits for the device and never reads
// its memory, so it can be captured into a graph (after a first call outside, as with any kernel: the driver loads it
// then).
//
// P and C are below 2^31, and so is the number of blocks, at most about P H Tq / 64; 1 <= D <= kMaxHeadDim. Nothing to
// do where C, Tq or H is 0. An entry of parent or source_row that is out of range stops the plan with a device
// assertion that names it, before anything is read through it: the stream then reports cudaErrorAssert, as PyTorch's
// own indexing does.
template <typename T>
cudaError_t launch_patched_attention(const PatchedAttention<T>& op, void* workspace, cudaStream_t stream);

}  // namespace pilot::cuda
