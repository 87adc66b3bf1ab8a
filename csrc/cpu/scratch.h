// Scratch memory of the host functions' threads.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace pilot::cpu {

// The calling thread's memory, 64-byte aligned: kept from call to call, and as large as the largest that it asked for.
inline void* thread_scratch(size_t bytes) {
  constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local size_t size = 0;
  if (size < bytes) {
    memory.reset();
    memory.reset(::operator new(bytes, kAlignment));
    size = bytes;
  }
  return memory.get();
}

}  // namespace pilot::cpu
