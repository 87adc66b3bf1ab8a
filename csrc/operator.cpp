// The operator's schema, once for all devices, and the module that Python asks for build facts.
// Device files register implementations: cpu/patched_attention.cpp, cuda/binding.cpp.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include "cpu/kernel.h"

TORCH_LIBRARY(pilot, m) {
  m.def(
      "patched_attention(Tensor q, Tensor k, Tensor v, Tensor source, Tensor parent, Tensor source_row, "
      "Tensor replace, *, float? scale=None) -> Tensor");
  m.def(
      "patched_attention_out(Tensor q, Tensor k, Tensor v, Tensor source, Tensor parent, Tensor source_row, "
      "Tensor replace, *, float? scale=None, Tensor(a!) out) -> ()");
}

#define PILOT_TEXT_OF(...) #__VA_ARGS__
#define PILOT_TEXT(...) PILOT_TEXT_OF(__VA_ARGS__)

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
#ifdef PILOT_CUDA_ARCHITECTURES
  facts["cuda_architectures"] = PILOT_TEXT(PILOT_CUDA_ARCHITECTURES);
#else
  facts["cuda_architectures"] = "none";
#endif
  facts["instruction_set"] = pilot::cpu::capability();
  facts["instruction_sets"] = pilot::cpu::capabilities();
  return facts;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  pilot::cpu::capability();  // so that a PILOT_CPU_CAPABILITY that this CPU does not have is an ImportError
  m.doc() = "Facts about this build of the operators in torch.ops.pilot, and hooks for their tests.";
  m.def("build_facts", &build_facts);
  m.def("use_capability", &pilot::cpu::use_capability, "Use this instruction set from now on, not the best one.");
  m.def("exp2", &pilot::cpu::exp2<float>, "The kernels' own 2^x, in float32.");
  m.def("exp2_double", &pilot::cpu::exp2<double>, "The kernels' own 2^x, in float64.");
}
