// product on the CPU.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "common/memory_safety.h"
#include "cpu/capability.h"
#include "product/product.h"

namespace pilot {
namespace {

template <typename T>
void run(const at::Tensor& x, const at::Tensor& matrix, const std::optional<at::Tensor>& bias, bool add,
         const at::Tensor& out) {
  Product<T> op;
  op.M = x.size(0), op.K = matrix.size(0), op.N = matrix.size(1);
  op.x = data<T>(x, x.options(), {op.M, op.K});
  op.matrix = data<T>(matrix, x.options(), {op.K, op.N});
  op.bias = bias ? data<T>(*bias, x.options(), {op.N}) : nullptr;
  op.out = mutable_data<T>(out, x.options(), {op.M, op.N}, {x, matrix});
  op.x_stride = x.stride(0), op.matrix_stride = matrix.stride(0), op.out_stride = out.stride(0);
  op.add = add;
  const auto product = cpu::kernels<T>().product;
  const int64_t grain = 1 + kMultipliesPerPart / (op.K * op.N + 1);
  at::parallel_for(0, op.M, grain, [&](int64_t first, int64_t last) { product(op, first, last); });
}

void product(const at::Tensor& x, const at::Tensor& matrix, const std::optional<at::Tensor>& bias, bool add,
             at::Tensor out) {
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "product", [&] { run<scalar_t>(x, matrix, bias, add, out); });
}

}  // namespace
}  // namespace pilot

TORCH_LIBRARY_IMPL(pilot, CPU, m) { m.impl("product", &pilot::product); }
