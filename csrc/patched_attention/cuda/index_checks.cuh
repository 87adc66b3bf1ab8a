// The assertions on indexes are part of the contract: include this before anything else that includes <cassert>.
#pragma once

#undef NDEBUG
#include <cassert>
#include <cstdint>

namespace pilot::cuda {

// Of an entry of parent, and of source_row.
__device__ inline void assert_in_range(int64_t parent, int64_t P, int64_t donor, int64_t S) {
  assert(parent >= 0 && parent < P && "patched_attention: an entry of parent is out of range");
  assert(donor >= 0 && donor < S && "patched_attention: an entry of source_row is out of range");
}

}  // namespace pilot::cuda
