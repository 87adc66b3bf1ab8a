#include "checks.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <string>

namespace pilot {
namespace {

constexpr int64_t kMaxHeadDim = 256;

std::string name_of(at::ScalarType dtype) { return std::string(c10::getDtypeNames(dtype).first); }

struct Named {
  const char* name;
  const at::Tensor& tensor;
};

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

void check_values(const char* name, const at::Tensor& index, int64_t end, const char* of) {
  const int64_t* value = index.const_data_ptr<int64_t>();
  for (int64_t c = 0; c < index.numel(); ++c) {
    TORCH_CHECK_INDEX(value[c] >= 0 && value[c] < end, name, "[", c, "] is ", value[c], ", but ", of, " has ", end,
                      " rows");
  }
}

}  // namespace

void check_arguments(const Arguments& a, std::optional<double> scale, std::initializer_list<at::ScalarType> dtypes) {
  check_dim({"q", a.q}, 4, "(P, Tq, H, D)");
  check_dim({"k", a.k}, 4, "(P, Tk, H_kv, D)");
  check_dim({"parent", a.parent}, 1, "(C,)");
  check_dim({"source", a.source}, 4, "(S, Tq, H, D)");
  const int64_t P = a.q.size(0), Tq = a.q.size(1), H = a.q.size(2), D = a.q.size(3);
  const int64_t Tk = a.k.size(1), H_kv = a.k.size(2), C = a.parent.size(0), S = a.source.size(0);

  check_shape({"k", a.k}, {P, Tk, H_kv, D}, "(P, Tk, H_kv, D)");
  check_shape({"v", a.v}, {P, Tk, H_kv, D}, "(P, Tk, H_kv, D)");
  check_shape({"source", a.source}, {S, Tq, H, D}, "(S, Tq, H, D)");
  check_shape({"source_row", a.source_row}, {C}, "(C,)");
  check_shape({"replace", a.replace}, {C, Tq, H}, "(C, Tq, H)");
  TORCH_CHECK_VALUE(Tk >= Tq, "k has ", Tk, " positions, fewer than the ", Tq, " of q: queries are the last Tq of Tk");
  TORCH_CHECK_VALUE(H_kv > 0 ? H % H_kv == 0 : H == 0, "q has ", H, " heads, not a multiple of the ", H_kv,
                    " of k and v");
  TORCH_CHECK_VALUE(D >= 1 && D <= kMaxHeadDim, "head_dim must be 1 to ", kMaxHeadDim, ", not ", D);
  TORCH_CHECK_VALUE(!scale || std::isfinite(*scale), "scale must be finite, not ", *scale);

  bool known = false;
  for (at::ScalarType dtype : dtypes) known = known || a.q.scalar_type() == dtype;
  TORCH_CHECK_TYPE(known, "patched_attention does not compute in ", name_of(a.q.scalar_type()), " on ",
                   a.q.device().type());
  for (Named x : {Named{"k", a.k}, Named{"v", a.v}, Named{"source", a.source}}) check_dtype(x, a.q.scalar_type());
  for (Named x : {Named{"parent", a.parent}, Named{"source_row", a.source_row}}) check_dtype(x, at::kLong);
  check_dtype({"replace", a.replace}, at::kBool);

  for (Named x : {Named{"k", a.k}, Named{"v", a.v}, Named{"source", a.source}, Named{"parent", a.parent},
                  Named{"source_row", a.source_row}, Named{"replace", a.replace}}) {
    TORCH_CHECK_VALUE(x.tensor.device() == a.q.device(), x.name, " is on ", x.tensor.device(), ", but q is on ",
                      a.q.device());
  }
  for (Named x : {Named{"q", a.q}, Named{"k", a.k}, Named{"v", a.v}, Named{"source", a.source}}) {
    TORCH_CHECK_VALUE(D == 1 || x.tensor.stride(3) == 1, x.name,
                      " must be contiguous in its last dimension, not stride ", x.tensor.stride(3));
  }
}

void check_out(const Arguments& a, const at::Tensor& out) {
  check_shape({"out", out}, {a.parent.size(0), a.q.size(1), a.q.size(2), a.q.size(3)}, "(C, Tq, H, D)");
  check_dtype({"out", out}, a.q.scalar_type());
  TORCH_CHECK_VALUE(out.device() == a.q.device(), "out is on ", out.device(), ", but q is on ", a.q.device());
  TORCH_CHECK_VALUE(out.is_contiguous(), "out must be contiguous, not strides ", out.strides());
  for (Named x : {Named{"q", a.q}, Named{"k", a.k}, Named{"v", a.v}, Named{"source", a.source}}) {
    const at::MemOverlapStatus overlap = at::get_overlap_status(out, x.tensor);
    TORCH_CHECK_VALUE(overlap != at::MemOverlapStatus::Full && overlap != at::MemOverlapStatus::Partial,
                      "out must not share memory with ", x.name);
  }
}

void check_indexes(const Arguments& a) {
  check_values("parent", a.parent, a.q.size(0), "q");
  check_values("source_row", a.source_row, a.source.size(0), "source");
}

at::Tensor empty_z(const Arguments& a) {
  return at::empty({a.parent.size(0), a.q.size(1), a.q.size(2), a.q.size(3)}, a.q.options());
}

Arguments with_contiguous_indexes(Arguments a) {
  a.parent = a.parent.contiguous();
  a.source_row = a.source_row.contiguous();
  a.replace = a.replace.contiguous();
  return a;
}

}  // namespace pilot
