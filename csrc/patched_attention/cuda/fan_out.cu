// Attention that PyTorch has computed goes to each child, except where that child takes a donor's value.
#include "cuda/launch.cuh"
#include "patched_attention/cuda/index_checks.cuh"
#include "patched_attention/cuda/launcher.h"
#include "patched_attention/cuda/tile.cuh"

namespace pilot::cuda {
namespace {

// A block has one position of one child at a time. `Unit` is 16 bytes where everything is aligned, else one value.
template <typename Unit, typename T>
__global__ void fan_out_kernel(PatchedAttention<T> op, const T* attention, Strides strides) {
  constexpr int kPer = sizeof(Unit) / sizeof(T);
  const int units = static_cast<int>(op.D) / kPer, heads = static_cast<int>(op.H);
  for (int64_t row = blockIdx.x; row < op.C * op.Tq; row += gridDim.x) {
    const int64_t c = row / op.Tq, pos = row % op.Tq, parent = op.parent[c], donor = op.source_row[c];
    assert_in_range(parent, op.P, donor, op.S);
    const bool* const replace = op.replace + row * op.H;
    const T* const own = attention + parent * strides.row + pos * strides.pos;
    const T* const source = op.source + donor * op.source_strides.row + pos * op.source_strides.pos;
    T* const z = op.z + row * op.H * op.D;
    for (int i = threadIdx.x; i < units * heads; i += blockDim.x) {
      const int head = i / units, column = i % units * kPer;
      const T* const from = replace[head] ? source + head * op.source_strides.head : own + head * strides.head;
      *reinterpret_cast<Unit*>(z + i * kPer) = *reinterpret_cast<const Unit*>(from + column);
    }
  }
}

}  // namespace

template <typename T>
cudaError_t launch_fan_out(const PatchedAttention<T>& op, const T* attention, const Strides& strides,
                           cudaStream_t stream) {
  const bool in_units = aligned(attention, strides, op.D) && aligned(op.source, op.source_strides, op.D) &&
                        aligned(op.z, Strides{}, op.D);
  const int64_t units = op.H * op.D / (in_units ? kPerUnit<T> : 1);
  const int threads = static_cast<int>(std::min<int64_t>(ceil_div(units, 32) * 32, 256));
  const int64_t blocks = std::min<int64_t>(op.C * op.Tq, INT_MAX);
  const auto kernel = in_units ? fan_out_kernel<uint4, T> : fan_out_kernel<T, T>;
  return launch(kernel, blocks, threads, 0, stream, op, attention, strides);
}

template cudaError_t launch_fan_out(const PatchedAttention<float>&, const float*, const Strides&, cudaStream_t);
template cudaError_t launch_fan_out(const PatchedAttention<__half>&, const __half*, const Strides&, cudaStream_t);
template cudaError_t launch_fan_out(const PatchedAttention<__nv_bfloat16>&, const __nv_bfloat16*, const Strides&,
                                    cudaStream_t);

}  // namespace pilot::cuda
