#include "cpu/capability.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace pilot::cpu {
namespace {

struct InstructionSet {
  const char* name;
  const Kernels<float>* float_kernels;
  const Kernels<double>* double_kernels;
};

std::vector<InstructionSet> supported() {
  std::vector<InstructionSet> sets = {{"generic", &generic::float_kernels, &generic::double_kernels}};
#if PILOT_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back({"avx2", &avx2::float_kernels, &avx2::double_kernels});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq")) {
      sets.push_back({"avx512", &avx512::float_kernels, &avx512::double_kernels});
    }
  }
#endif
  return sets;
}

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> sets = supported();
  return sets;
}

const InstructionSet& find(const std::string& name) {
  std::string names;
  for (const InstructionSet& set : instruction_sets()) {
    if (name == set.name) return set;
    names += names.empty() ? set.name : std::string(", ") + set.name;
  }
  throw std::invalid_argument("this CPU has no instruction set '" + name + "' (PILOT_CPU_CAPABILITY): it has " + names);
}

// Atomic: a thread may change it while others compute.
std::atomic<const InstructionSet*>& current() {
  static std::atomic<const InstructionSet*> set = [] {
    const char* wanted = std::getenv("PILOT_CPU_CAPABILITY");
    return wanted != nullptr && *wanted != '\0' ? &find(wanted) : &instruction_sets().back();
  }();
  return set;
}

}  // namespace

std::vector<std::string> capabilities() {
  std::vector<std::string> names;
  for (const InstructionSet& set : instruction_sets()) names.emplace_back(set.name);
  return names;
}

std::string capability() { return current().load()->name; }

void use_capability(const std::string& name) { current() = &find(name); }

template <>
const Kernels<float>& kernels() {
  return *current().load()->float_kernels;
}

template <>
const Kernels<double>& kernels() {
  return *current().load()->double_kernels;
}

}  // namespace pilot::cpu
