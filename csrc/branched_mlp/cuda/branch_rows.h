// The CUDA side of branched_mlp, all but the product: raw pointers and a stream, no PyTorch.
#pragma once

#include <cuda_runtime_api.h>

#include "branched_mlp/branched_mlp.h"

namespace pilot::cuda {

// For rows first to first + n, exclusive, of out (N C B W, d), which is contiguous: writes total[:d] + out_bias to out,
// and the hidden units to `hidden` (n, m), for T = float, double, __half, __nv_bfloat16. `member` is on the device.
template <typename T>
cudaError_t launch_branch_rows(const BranchedMlp<T>& op, int64_t first, int64_t n, T* hidden, cudaStream_t stream);

}  // namespace pilot::cuda
