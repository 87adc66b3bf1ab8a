// The CUDA side of patched_attention: raw pointers, a workspace and a stream, no PyTorch.
//
//   plan.cu             which children each parent has
//   attention_fma.cuh   attention to few keys and all that happens to it, several heads a block
//   fan_out.cu          what happens to attention that PyTorch has computed
//
// Launches are enqueued on `stream`, for T = float, __half, __nv_bfloat16. They never wait for the device and never
// read its memory, so they can be captured into a graph (after a first call outside, as with any kernel: the driver
// loads it then). An entry of parent or source_row that is out of range stops them with a device assertion that names
// it, before anything is read through it: the stream then reports cudaErrorAssert, as PyTorch's own indexing does.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "patched_attention/patched_attention.h"

namespace pilot::cuda {

// So many keys still take attention_fma.cuh: short sequences are bound by memory, and no library is made for them.
constexpr int64_t kFewKeys = 64;

// Scratch memory that launch_attention needs, aligned to 16 bytes. Its contents mean nothing before and after.
size_t workspace_bytes(int64_t P, int64_t C);

// The operator, for Tk <= kFewKeys and P, C < 2^31; neither C, Tq nor H is 0.
template <typename T>
cudaError_t launch_attention(const PatchedAttention<T>& op, void* workspace, cudaStream_t stream);

// The operator without its attention, which is given: (P, Tq, H, D), the last dimension contiguous.
template <typename T>
cudaError_t launch_fan_out(const PatchedAttention<T>& op, const T* attention, const Strides& strides,
                           cudaStream_t stream);

}  // namespace pilot::cuda
