// The Python module pilot_cuda_operators: facts about this build. The operators are registered where they are written.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <string>

#define PILOT_TEXT_OF(...) #__VA_ARGS__
#define PILOT_TEXT(...) PILOT_TEXT_OF(__VA_ARGS__)

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Facts about this build of the operators in torch.ops.pilot for CUDA.";
  m.def("build_facts", [] {
    pybind11::dict facts;
    facts["cuda_architectures"] = PILOT_TEXT(PILOT_CUDA_ARCHITECTURES);
    facts["cuda_toolkit"] = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
    return facts;
  });
}
