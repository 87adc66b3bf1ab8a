// Which of the instruction-set units runs: chosen once, by asking the CPU.

#include <cstdlib>
#include <stdexcept>

#include "kernel.h"

namespace pilot::cpu {
namespace {

struct Unit {
  const char* name;
  Kernel<float> attend_float;
  Kernel<double> attend_double;
  void (*exp2_float)(const float*, float*, int64_t);
  void (*exp2_double)(const double*, double*, int64_t);
};

std::vector<Unit> runnable_units() {
  std::vector<Unit> units = {{"generic", generic::attend, generic::attend, generic::exp2, generic::exp2}};
#if PILOT_X86_UNITS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    units.push_back({"avx2", avx2::attend, avx2::attend, avx2::exp2, avx2::exp2});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq")) {
      units.push_back({"avx512", avx512::attend, avx512::attend, avx512::exp2, avx512::exp2});
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
Kernel<float> kernel<float>() {
  return current()->attend_float;
}

template <>
Kernel<double> kernel<double>() {
  return current()->attend_double;
}

template <>
std::vector<float> exp2(const std::vector<float>& x) {
  std::vector<float> y(x.size());
  current()->exp2_float(x.data(), y.data(), static_cast<int64_t>(x.size()));
  return y;
}

template <>
std::vector<double> exp2(const std::vector<double>& x) {
  std::vector<double> y(x.size());
  current()->exp2_double(x.data(), y.data(), static_cast<int64_t>(x.size()));
  return y;
}

}  // namespace pilot::cpu
