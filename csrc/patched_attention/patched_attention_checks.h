// What every backend of patched_attention does before its kernel: check the arguments, and describe them as plain
// pointers. pilot/ops/checks.py repeats the checks for the eager twin and the fake implementation.
#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>
#include <initializer_list>
#include <optional>

#include "patched_attention/patched_attention.h"

namespace pilot {

// The operator's tensors, by the names that messages use.
struct Arguments {
  at::Tensor q, k, v, source, parent, source_row, replace;
};

// Raises on a wrong dimension, shape, dtype, device or stride; `dtypes` are those that the backend computes in.
void check_arguments(const Arguments& a, std::optional<double> scale, std::initializer_list<at::ScalarType> dtypes);

// Raises when `out` cannot take z, or shares memory with an argument.
void check_out(const Arguments& a, const at::Tensor& out);

// Raises when an entry of parent or source_row is out of range. Reads the values, so they must be in host memory.
void check_indexes(const Arguments& a);

// A fresh tensor for z: (C, Tq, H, D), contiguous.
at::Tensor empty_z(const Arguments& a);

// The same arguments with parent, source_row and replace contiguous, as the contract wants them.
Arguments with_contiguous_indexes(Arguments a);

template <typename T>
PatchedAttention<T> describe(const Arguments& a, std::optional<double> scale, const at::Tensor& z) {
  const auto strides = [](const at::Tensor& x) { return Strides{x.stride(0), x.stride(1), x.stride(2)}; };
  PatchedAttention<T> op;
  op.q = static_cast<const T*>(a.q.const_data_ptr());
  op.k = static_cast<const T*>(a.k.const_data_ptr());
  op.v = static_cast<const T*>(a.v.const_data_ptr());
  op.source = static_cast<const T*>(a.source.const_data_ptr());
  op.q_strides = strides(a.q);
  op.k_strides = strides(a.k);
  op.v_strides = strides(a.v);
  op.source_strides = strides(a.source);
  op.parent = a.parent.const_data_ptr<int64_t>();
  op.source_row = a.source_row.const_data_ptr<int64_t>();
  op.replace = a.replace.const_data_ptr<bool>();
  op.z = static_cast<T*>(z.mutable_data_ptr());
  op.P = a.q.size(0), op.C = a.parent.size(0), op.S = a.source.size(0);
  op.Tq = a.q.size(1), op.Tk = a.k.size(1), op.H = a.q.size(2), op.H_kv = a.k.size(2), op.D = a.q.size(3);
  op.scale = scale ? *scale : 1.0 / std::sqrt(static_cast<double>(op.D));
  return op;
}

}  // namespace pilot
