// The Python module pilot_operators: facts about this build, and hooks for tests. The operators themselves are
// registered with PyTorch, each where it is written, and are called through torch.ops.pilot. Schemas are in pilot/ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/capability.h"

namespace {

#define PILOT_TEXT_OF(x) #x
#define PILOT_TEXT(x) PILOT_TEXT_OF(x)

pybind11::dict build_facts() {
  pybind11::dict facts;
#if defined(__clang__)
  facts["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  facts["compiler"] = "gcc " __VERSION__;
#elif defined(_MSC_VER)
  facts["compiler"] = "msvc " + std::to_string(_MSC_VER);
#endif
#ifdef _OPENMP
  facts["openmp"] = true;
#else
  facts["openmp"] = false;
#endif
  facts["pybind11"] =
      PILOT_TEXT(PYBIND11_VERSION_MAJOR) "." PILOT_TEXT(PYBIND11_VERSION_MINOR) "." PILOT_TEXT(PYBIND11_VERSION_PATCH);
  facts["instruction_set"] = pilot::cpu::capability();
  facts["instruction_sets"] = pilot::cpu::capabilities();
  return facts;
}

template <typename T>
std::vector<T> exp2_of_each(const std::vector<T>& x) {
  std::vector<T> y(x.size());
  pilot::cpu::kernels<T>().exp2(x.data(), y.data(), static_cast<int64_t>(x.size()));
  return y;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  pilot::cpu::capability();  // so that a PILOT_CPU_CAPABILITY that this CPU does not have is an ImportError
  m.doc() = "Facts about this build of the operators in torch.ops.pilot, and hooks for their tests.";
  m.def("build_facts", &build_facts);
  m.def("use_capability", &pilot::cpu::use_capability, "Use this instruction set from now on, not the fastest.");
  m.def("exp2", &exp2_of_each<float>, "The kernels' own 2^x, in float32.");
  m.def("exp2_double", &exp2_of_each<double>, "The kernels' own 2^x, in float64.");
}
