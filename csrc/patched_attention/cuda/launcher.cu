// Chooses a kernel.
#include <climits>

#include "cuda/launch.cuh"
#include "patched_attention/cuda/attention.h"
#include "patched_attention/cuda/launcher.h"

namespace pilot::cuda {

size_t workspace_bytes(int64_t P, int64_t C) { return Plan::bytes(P, C); }

template <typename T>
cudaError_t launch_patched_attention(const PatchedAttention<T>& op, void* workspace, cudaStream_t stream) {
  if (op.C == 0 || op.Tq == 0 || op.H == 0) return cudaSuccess;
  if (op.P < 1 || op.S < 1 || op.P > INT_MAX || op.C > INT_MAX || op.D < 1 || op.D > kMaxHeadDim)
    return cudaErrorInvalidValue;

  const Plan plan(workspace, op.P, op.C);
  if (const cudaError_t error = launch_plan(plan, op.parent, op.source_row, op.P, op.C, op.S, stream)) return error;
  Device device{};
  if (const cudaError_t error = current_device(device)) return error;
  // Below, a tile of the tensor-core kernel would be mostly padding.
  const int64_t packed_keys = sizeof(T) == 4 ? 64 : 32;
  return op.Tk <= packed_keys ? attention_packed(op, plan, device, stream) : attention_long(op, plan, device, stream);
}

template cudaError_t launch_patched_attention(const PatchedAttention<float>&, void*, cudaStream_t);
template cudaError_t launch_patched_attention(const PatchedAttention<__half>&, void*, cudaStream_t);
template cudaError_t launch_patched_attention(const PatchedAttention<__nv_bfloat16>&, void*, cudaStream_t);

}  // namespace pilot::cuda
