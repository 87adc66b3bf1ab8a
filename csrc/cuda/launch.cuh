// Launching a kernel on the current device.
#pragma once

#include <algorithm>

#include "cuda/device.cuh"

namespace pilot::cuda {

// Shared memory that a block can have on every GPU of compute capability 8.0 and newer.
constexpr int kMostShared = 99 * 1024;

// What the size of a launch depends on.
struct Device {
  int multiprocessors;
  int shared_bytes;  // of a multiprocessor, for all its blocks

  // The most that a block can have where `blocks` of them share a multiprocessor. Each costs 1 KB beyond its own.
  int64_t shared_for(int blocks) const { return std::min(shared_bytes / blocks - 1024, kMostShared); }
};

inline cudaError_t current_device(Device& device) {
  int index = 0;
  if (const cudaError_t error = cudaGetDevice(&index)) return error;
  const auto get = [&](int& value, cudaDeviceAttr name) { return cudaDeviceGetAttribute(&value, name, index); };
  if (const cudaError_t error = get(device.multiprocessors, cudaDevAttrMultiProcessorCount)) return error;
  return get(device.shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
}

template <typename... Parameters, typename... Values>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes, cudaStream_t stream,
                   Values... values) {
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  const auto set = [&](cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
  };
  if (shared_bytes > 0) {  // as many blocks on a multiprocessor as its shared memory holds, rather than a large L1
    constexpr int kMax = cudaSharedmemCarveoutMaxShared;
    if (const cudaError_t error = set(cudaFuncAttributePreferredSharedMemoryCarveout, kMax)) return error;
  }
  if (shared_bytes > 48 * 1024) {  // more than a kernel may have unasked
    // Always the same value: the attribute is the kernel's, and other threads and captured graphs launch it too.
    if (const cudaError_t error = set(cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared)) return error;
  }
  return enqueue(kernel, static_cast<unsigned>(blocks), threads, shared_bytes, stream, values...);
}

}  // namespace pilot::cuda
