// In place of PyTorch's.
#pragma once

#include <c10/util/Exception.h>

#define C10_CUDA_CHECK(call)                                                      \
  do {                                                                            \
    const int error = (call);                                                     \
    TORCH_CHECK(error == 0, "CUDA error ", error, " on the emulated GPU"); \
  } while (0)
