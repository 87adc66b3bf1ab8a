// What every backend of branched_hidden does before its kernel: check the arguments, and describe them as plain
// pointers. pilot/ops/checks.py repeats the checks for the eager twin and the fake implementation.
#pragma once

#include <ATen/core/Tensor.h>

#include "branched_hidden/branched_hidden.h"

namespace pilot {

// The operator's arguments, by the names that messages use.
struct BranchedHiddenArguments {
  const at::Tensor &state, &terms, &member, &in_bias, &out_bias;
  double eps;
  const at::Tensor &hidden, &after;
};

// Raises on a wrong dimension, shape, dtype, device or stride, and where a result shares memory with an argument.
void check_arguments(const BranchedHiddenArguments& a);

template <typename T>
BranchedHidden<T> describe(const BranchedHiddenArguments& a) {
  BranchedHidden<T> op;
  op.state = a.state.const_data_ptr<T>();
  op.terms = a.terms.const_data_ptr<T>();
  op.member = a.member.const_data_ptr<bool>();
  op.in_bias = a.in_bias.const_data_ptr<T>();
  op.out_bias = a.out_bias.const_data_ptr<T>();
  for (int i = 0; i < 3; ++i) op.state_strides[i] = a.state.stride(i);
  for (int i = 0; i < 4; ++i) op.terms_strides[i] = a.terms.stride(i);
  for (int i = 0; i < 4; ++i) op.member_strides[i] = a.member.stride(i);
  op.hidden = a.hidden.mutable_data_ptr<T>();
  op.after = a.after.mutable_data_ptr<T>();
  op.C = a.member.size(0), op.K = a.member.size(3);
  op.N = a.state.size(0), op.B = a.state.size(1), op.W = a.state.size(2);
  op.d = a.out_bias.size(0), op.m = a.in_bias.size(0);
  op.eps = a.eps;
  return op;
}

}  // namespace pilot
