// Which of the instruction-set units runs: chosen once, by asking the CPU.

#include <cstdlib>
#include <stdexcept>

#include "kernel.h"

namespace pilot::cpu {
namespace {

struct Unit {
  const char* name;
  const Kernels<float>* float_kernels;
  const Kernels<double>* double_kernels;
};

std::vector<Unit> runnable_units() {
  std::vector<Unit> units = {{"generic", &generic::float_kernels, &generic::double_kernels}};
#if PILOT_X86_UNITS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    units.push_back({"avx2", &avx2::float_kernels, &avx2::double_kernels});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq")) {
      units.push_back({"avx512", &avx512::float_kernels, &avx512::double_kernels});
    }
  }
#endif
  return units;
}

const std::vector<Unit>& units() {
  static const std::vector<Unit> all = runnable_units();
  return all;
}

const Unit& find(const std::string& name) {
  std::string names;
  for (const Unit& unit : units()) {
    if (name == unit.name) return unit;
    names += names.empty() ? unit.name : std::string(", ") + unit.name;
  }
  throw std::invalid_argument("this CPU has no instruction set '" + name + "' (PILOT_CPU_CAPABILITY): it has " + names);
}

const Unit*& current() {
  static const Unit* unit = [] {
    const char* wanted = std::getenv("PILOT_CPU_CAPABILITY");
    return wanted != nullptr && *wanted != '\0' ? &find(wanted) : &units().back();
  }();
  return unit;
}

}  // namespace

std::vector<std::string> capabilities() {
  std::vector<std::string> names;
  for (const Unit& unit : units()) names.emplace_back(unit.name);
  return names;
}

std::string capability() { return current()->name; }

void use_capability(const std::string& name) { current() = &find(name); }

template <>
const Kernels<float>& kernels() {
  return *current()->float_kernels;
}

template <>
const Kernels<double>& kernels() {
  return *current()->double_kernels;
}

}  // namespace pilot::cpu
