#include "patched_attention/patched_attention_checks.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "common/tensor_checks.h"

namespace pilot {
namespace {

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
  TORCH_CHECK_INDEX(C == 0 || P > 0, "parent has ", C, " entries, but q has no rows");
  TORCH_CHECK_INDEX(C == 0 || S > 0, "source_row has ", C, " entries, but source has no rows");
  TORCH_CHECK_VALUE(!scale || std::isfinite(*scale), "scale must be finite, not ", *scale);

  check_computes("patched_attention", a.q, dtypes);
  for (Named x : {Named{"k", a.k}, Named{"v", a.v}, Named{"source", a.source}}) check_dtype(x, a.q.scalar_type());
  for (Named x : {Named{"parent", a.parent}, Named{"source_row", a.source_row}}) check_dtype(x, at::kLong);
  check_dtype({"replace", a.replace}, at::kBool);

  for (Named x : {Named{"k", a.k}, Named{"v", a.v}, Named{"source", a.source}, Named{"parent", a.parent},
                  Named{"source_row", a.source_row}, Named{"replace", a.replace}}) {
    check_device(x, {"q", a.q});
  }
  for (Named x : {Named{"q", a.q}, Named{"k", a.k}, Named{"v", a.v}, Named{"source", a.source}}) {
    check_last_contiguous(x);
  }
}

void check_out(const Arguments& a, const at::Tensor& out) {
  check_out({"out", out}, {a.parent.size(0), a.q.size(1), a.q.size(2), a.q.size(3)}, "(C, Tq, H, D)", {"q", a.q});
  for (Named x : {Named{"q", a.q}, Named{"k", a.k}, Named{"v", a.v}, Named{"source", a.source}}) {
    check_no_overlap({"out", out}, x);
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
