// What the kernel is handed beside the operator's arguments.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pilot {

// The rows of z computed from parent p: row[begin[p]] to row[begin[p + 1]], exclusive.
struct Children {
  const int64_t* begin;
  const int64_t* row;
};

// A thread's scratch, 64-byte aligned.
constexpr size_t kScratchBytes = 320 * 1024;

}  // namespace pilot
