// The module pilot_operators: the operators' schemas, for all devices, and what Python asks about this build.
// Implementations are registered by patched_attention.cpp and branched_hidden.cpp here, and by ../cuda/binding.cpp.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include "kernel.h"

TORCH_LIBRARY(pilot, m) {
  m.def(
      "patched_attention(Tensor q, Tensor k, Tensor v, Tensor source, Tensor parent, Tensor source_row, "
      "Tensor replace, *, float? scale=None) -> Tensor");
  m.def(
      "patched_attention_out(Tensor q, Tensor k, Tensor v, Tensor source, Tensor parent, Tensor source_row, "
      "Tensor replace, *, float? scale=None, Tensor(a!) out) -> ()");
  m.def(
      "branched_hidden(Tensor state, Tensor terms, Tensor member, Tensor in_bias, Tensor out_bias, float eps, *, "
      "Tensor(a!) hidden, Tensor(b!) after) -> ()");
}

namespace {

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
  facts["instruction_set"] = pilot::cpu::capability();
  facts["instruction_sets"] = pilot::cpu::capabilities();
  return facts;
}

// One of the kernels' functions of a number, for lists of them.
template <typename T>
auto each(void (*pilot::Kernels<T>::*function)(const T*, T*, int64_t)) {
  return [function](const std::vector<T>& x) {
    std::vector<T> y(x.size());
    (pilot::cpu::kernels<T>().*function)(x.data(), y.data(), static_cast<int64_t>(x.size()));
    return y;
  };
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  pilot::cpu::capability();  // so that a PILOT_CPU_CAPABILITY that this CPU does not have is an ImportError
  m.doc() = "Facts about this build of the operators in torch.ops.pilot, and hooks for their tests.";
  m.def("build_facts", &build_facts);
  m.def("use_capability", &pilot::cpu::use_capability, "Use this instruction set from now on, not the best one.");
  m.def("exp2", each(&pilot::Kernels<float>::exp2), "The kernels' own 2^x, in float32.");
  m.def("exp2_double", each(&pilot::Kernels<double>::exp2), "The kernels' own 2^x, in float64.");
  m.def("gelu", each(&pilot::Kernels<float>::gelu), "The kernels' own GELU, in float32.");
  m.def("gelu_double", each(&pilot::Kernels<double>::gelu), "The kernels' own GELU, in float64.");
}
