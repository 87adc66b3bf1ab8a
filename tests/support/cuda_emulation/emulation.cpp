// Fibers for device.h, and what the kernels' host code asks of CUDA.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "device.h"

namespace emulation {

Index thread, block, block_dim, grid_dim;

namespace {

constexpr size_t kStack = 256 * 1024;
constexpr int kMaxThreads = 1024;

struct Copy {
  void* to;
  const void* from;
  bool valid;
};

struct Barrier {
  int arrived = 0;
  int64_t generation = 0;
  Lanes lanes{};
};

// A fiber starts as a ucontext; from then on _setjmp and _longjmp switch, which cost no system call.
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  bool started, finished;
  const Barrier* waiting_for;  // null: can run
  int64_t generation;
  std::vector<Copy> copies;
};

std::vector<Fiber> fibers(kMaxThreads);
ucontext_t scheduler;
jmp_buf scheduler_place;
Barrier whole_block;
std::vector<std::map<unsigned, Barrier>> warps(kMaxThreads / 32);
std::unique_ptr<char[]> shared_memory(new char[256 * 1024]);
const std::function<void()>* current_kernel;
std::mt19937 shuffle(1);

// The device that is played, and what was asked of it.
int shared_per_multiprocessor = 228 * 1024;
size_t largest_shared = 0;
std::map<const void*, int> shared_limits;  // of kernels, as cudaFuncSetAttribute has left them

char* stack_of(int fiber) {
  static char* const stacks = static_cast<char*>(
      mmap(nullptr, kMaxThreads * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return stacks + fiber * kStack;
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "cuda emulation: %s\n", what);
  std::abort();
}

void start() {
  (*current_kernel)();
  fibers[thread.x].finished = true;
  _longjmp(scheduler_place, 1);
}

void resume(Fiber& fiber) {
  if (_setjmp(scheduler_place)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  swapcontext(&scheduler, &fiber.context);
}

void arrive(Barrier& barrier, int expected) {
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  Fiber& me = fibers[thread.x];
  me.waiting_for = &barrier;
  me.generation = barrier.generation;
  if (!_setjmp(me.place)) _longjmp(scheduler_place, 1);
}

void run_block(int threads) {
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.started = fiber.finished = false;
    fiber.waiting_for = nullptr;
    fiber.copies.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack_of(t);
    fiber.context.uc_stack.ss_size = kStack;
    makecontext(&fiber.context, start, 0);
  }
  std::vector<int> warp_order(threads / 32), lane_order(32);
  std::iota(warp_order.begin(), warp_order.end(), 0);
  std::iota(lane_order.begin(), lane_order.end(), 0);
  int left = threads;
  const auto advance = [&](int t) {
    Fiber& fiber = fibers[t];
    if (fiber.finished || (fiber.waiting_for && fiber.waiting_for->generation == fiber.generation)) return false;
    fiber.waiting_for = nullptr;
    thread.x = t;
    resume(fiber);
    left -= fiber.finished;
    return true;
  };
  while (left > 0) {
    bool progress = false;
    std::shuffle(warp_order.begin(), warp_order.end(), shuffle);
    for (const int warp : warp_order) {
      // As far as this warp gets alone: where a barrier of the block is missing, it meets what the others have not done
      // yet.
      for (bool moved = true; moved; progress |= moved) {
        moved = false;
        std::shuffle(lane_order.begin(), lane_order.end(), shuffle);
        for (const int lane : lane_order) moved |= advance(32 * warp + lane);
      }
    }
    if (!progress) fail("some threads wait at a barrier that others never reach");
  }
}

}  // namespace

uint4* dynamic_shared() { return reinterpret_cast<uint4*>(shared_memory.get()); }

void copy_later(void* to, const void* from, bool valid) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16) fail("a copy is not aligned");
  fibers[thread.x].copies.push_back({to, from, valid});
}

void wait_for_copies() {
  for (const Copy& copy : fibers[thread.x].copies) {
    copy.valid ? std::memcpy(copy.to, copy.from, 16) : std::memset(copy.to, 0, 16);
  }
  fibers[thread.x].copies.clear();
}

void block_barrier() { arrive(whole_block, block_dim.x); }

Lanes exchange(unsigned mask, uint64_t value) {
  const int lane = thread.x % 32;
  if (!(mask >> lane & 1)) fail("a lane is not in its own mask");
  Barrier& barrier = warps[thread.x / 32][mask];
  barrier.lanes.value[lane] = value;
  arrive(barrier, __builtin_popcount(mask));
  const Lanes lanes = barrier.lanes;
  arrive(barrier, __builtin_popcount(mask));
  return lanes;
}

size_t most_shared(const void* kernel) {
  const auto limit = shared_limits.find(kernel);
  return limit == shared_limits.end() ? 48 * 1024 : limit->second;
}

void run(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& kernel) {
  current_kernel = &kernel;
  largest_shared = std::max(largest_shared, shared_bytes);
  block_dim.x = threads, grid_dim.x = static_cast<int>(blocks);
  for (block.x = 0; block.x < blocks; ++block.x) {
    // NaN in every type, behind the end too: what is read before it is written shows in the result.
    std::memset(shared_memory.get(), 0xff, shared_bytes + 1024);
    run_block(threads);
    for (size_t i = shared_bytes; i < shared_bytes + 1024; ++i) {
      if (shared_memory[i] != char(0xff)) fail("a write behind the end of shared memory");
    }
  }
}

}  // namespace emulation

cudaError_t CUDARTAPI cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : emulation::shared_per_multiprocessor;
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > 99 * 1024) return cudaErrorInvalidValue;
  const auto [limit, is_new] = emulation::shared_limits.emplace(kernel, value);
  if (!is_new && limit->second != value)
    emulation::fail("the shared memory of a kernel is set anew: a launch in another thread may rely on it");
  return cudaSuccess;
}

// Plays a GPU whose multiprocessors have this much shared memory.
extern "C" void play_device(int shared_per_multiprocessor) {
  emulation::shared_per_multiprocessor = shared_per_multiprocessor;
  emulation::largest_shared = 0;
}

// The most that a block has asked for since then.
extern "C" int largest_shared() { return static_cast<int>(emulation::largest_shared); }
