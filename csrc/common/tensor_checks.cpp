#include "common/tensor_checks.h"

#include <ATen/MemoryOverlap.h>

#include <algorithm>
#include <string>

namespace pilot {
namespace {

std::string name_of(at::ScalarType dtype) { return std::string(c10::getDtypeNames(dtype).first); }

}  // namespace

void check_dim(Named x, int64_t dim, const char* letters) {
  TORCH_CHECK_VALUE(x.tensor.dim() == dim, x.name, " must have shape ", letters, ", not ", x.tensor.sizes());
}

void check_shape(Named x, at::IntArrayRef shape, const char* letters) {
  TORCH_CHECK_VALUE(x.tensor.sizes() == shape, x.name, " must have shape ", letters, " = ", shape, ", not ",
                    x.tensor.sizes());
}

void check_dtype(Named x, at::ScalarType dtype) {
  TORCH_CHECK_TYPE(x.tensor.scalar_type() == dtype, x.name, " must be ", name_of(dtype), ", not ",
                   name_of(x.tensor.scalar_type()));
}

void check_device(Named x, Named as) {
  TORCH_CHECK_VALUE(x.tensor.device() == as.tensor.device(), x.name, " is on ", x.tensor.device(), ", but ", as.name,
                    " is on ", as.tensor.device());
}

void check_last_contiguous(Named x) {
  TORCH_CHECK_VALUE(x.tensor.size(-1) == 1 || x.tensor.stride(-1) == 1, x.name,
                    " must be contiguous in its last dimension, not stride ", x.tensor.stride(-1));
}

void check_no_overlap(Named out, Named x) {
  const at::MemOverlapStatus overlap = at::get_overlap_status(out.tensor, x.tensor);
  TORCH_CHECK_VALUE(overlap != at::MemOverlapStatus::Full && overlap != at::MemOverlapStatus::Partial, out.name,
                    " must not share memory with ", x.name);
}

void check_out(Named out, at::IntArrayRef shape, const char* letters, Named as) {
  check_shape(out, shape, letters);
  check_dtype(out, as.tensor.scalar_type());
  check_device(out, as);
  TORCH_CHECK_VALUE(out.tensor.is_contiguous(), out.name, " must be contiguous, not strides ", out.tensor.strides());
}

void check_computes(const char* op, const at::Tensor& x, std::initializer_list<at::ScalarType> dtypes) {
  const bool known = std::find(dtypes.begin(), dtypes.end(), x.scalar_type()) != dtypes.end();
  TORCH_CHECK_TYPE(known, op, " does not compute in ", name_of(x.scalar_type()), " on ", x.device().type());
}

}  // namespace pilot
