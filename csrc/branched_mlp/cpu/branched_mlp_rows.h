// branched_mlp on the CPU, compiled once for each instruction set: see cpu/kernels.h. Included after PILOT_ISA is
// defined, and after the standard headers, which must not be compiled for it.
//
// The branches of a row are computed side by side, so that its state and terms are read from memory once, and in
// blocks. Hidden units never leave the cache: a block's are made some columns at a time, and multiplied at once by
// those rows of mlp_out. So the cache that a block needs does not grow with the model. A total lives in registers; the
// columns of x go straight to `out`, which the product then adds to.
#pragma once

#include <cmath>

#include "branched_mlp/branched_mlp.h"
#include "branched_mlp/cpu/activations.h"
#include "product/cpu/product_rows.h"

namespace pilot::PILOT_ISA {
namespace {

// A row of a branch: a row of state, and those of the terms that the branch adds.
template <typename T>
struct BranchRow {
  const T* state;
  const T* const* terms;
  int64_t n_terms;
  T scale;  // 1 / rms(x)
};

// Vectors of a row's total, from `column` on, `lanes` lanes of each. Terms < 0: as many as the row says.
template <typename S, int Terms, int Width>
PILOT_INLINE void load_total(const BranchRow<typename S::T>& row, int64_t column, int64_t lanes,
                             typename S::V (&x)[Width]) {
  PILOT_UNROLL
  for (int j = 0; j < Width; ++j) x[j] = S::load(row.state + column + j * S::N, lanes);
  const int64_t n_terms = Terms < 0 ? row.n_terms : Terms;
  for (int64_t k = 0; k < n_terms; ++k) {
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) x[j] += S::load(row.terms[k] + column + j * S::N, lanes);
  }
}

constexpr int kTotalWidth = 4;  // vectors

template <typename S, int Terms, typename Use>
PILOT_INLINE void use_totals_of(const BranchRow<typename S::T>& row, int64_t column, int64_t n, Use& use) {
  int64_t i = 0;
  for (; i + kTotalWidth * S::N <= n; i += kTotalWidth * S::N) {
    typename S::V x[kTotalWidth];
    load_total<S, Terms>(row, column + i, S::N, x);
    use(x, i, S::N);
  }
  for (; i < n; i += S::N) {
    typename S::V x[1];
    const int64_t lanes = n - i < S::N ? n - i : S::N;
    load_total<S, Terms>(row, column + i, lanes, x);
    use(x, i, lanes);
  }
}

// Hands n columns of a row's total, from `column` on, to use(x, i, lanes), some vectors at a time: x[0] begins at the
// i-th of them, and of each vector so many lanes count.
template <typename S, typename Use>
PILOT_INLINE void use_totals(const BranchRow<typename S::T>& row, int64_t column, int64_t n, Use& use) {
  switch (row.n_terms) {
    case 0:
      return use_totals_of<S, 0>(row, column, n, use);
    case 1:
      return use_totals_of<S, 1>(row, column, n, use);
    case 2:
      return use_totals_of<S, 2>(row, column, n, use);
    case 3:
      return use_totals_of<S, 3>(row, column, n, use);
    case 4:
      return use_totals_of<S, 4>(row, column, n, use);
    default:
      return use_totals_of<S, -1>(row, column, n, use);
  }
}

// out = x + bias, and the sum of the squares of x.
template <typename S>
struct WriteResidual {
  const typename S::T* bias;
  typename S::T* out;
  typename S::V squares[kTotalWidth] = {};

  template <int Width>
  PILOT_INLINE void operator()(typename S::V (&x)[Width], int64_t i, int64_t lanes) {
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) {
      squares[j] += x[j] * x[j];
      if (bias != nullptr) x[j] += S::load(bias + i + j * S::N, lanes);
      S::store(out + i + j * S::N, x[j], lanes);
    }
  }

  typename S::T sum_of_squares() const {
    typename S::V sum = squares[0];
    PILOT_UNROLL
    for (int j = 1; j < kTotalWidth; ++j) sum += squares[j];
    return S::sum(sum);
  }
};

// hidden = Activation(inputs * scale + bias); without an Activation hidden is multiplied by the inputs.
template <typename S, typename Activation>
struct WriteHidden {
  typename S::T scale;
  const typename S::T* bias;
  typename S::T* hidden;

  template <int Width>
  PILOT_INLINE void operator()(typename S::V (&x)[Width], int64_t i, int64_t lanes) {
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) {
      x[j] *= scale;
      if (bias != nullptr) x[j] += S::load(bias + i + j * S::N, lanes);
    }
    if constexpr (std::is_void_v<Activation>) {
      PILOT_UNROLL
      for (int j = 0; j < Width; ++j) x[j] *= S::load(hidden + i + j * S::N, lanes);
    } else {
      Activation::apply(x);
    }
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) S::store(hidden + i + j * S::N, x[j], lanes);
  }
};

// Some branches, computed together.
template <typename S>
class MlpBlock {
  using T = typename S::T;

 public:
  // With so many, hidden units take 172 KB of the second-level cache, which mlp_out's rows for them stand beside.
  static constexpr int64_t kRows = 448 / sizeof(T);

 private:
  struct Scratch {
    alignas(64) T hidden[kRows][kProductDepth];
    typename RowProduct<S>::Scratch product;
    BranchRow<T> row[kRows];
    T* out[kRows];
  };

  const BranchedMlp<T>& op;
  Scratch& scratch;
  const T** const terms;  // (kRows, K)

 public:
  MlpBlock(const BranchedMlp<T>& op, void* memory)
      : op(op), scratch(*static_cast<Scratch*>(memory)), terms(reinterpret_cast<const T**>(&scratch + 1)) {}

  static size_t scratch_bytes(const BranchedMlp<T>& op) { return sizeof(Scratch) + kRows * op.K * sizeof(const T*); }

  // Branches first to first + n, exclusive; n is at most kRows.
  void run(int64_t first, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      find(first + i, i);
      write_residual(i);
    }
    for (int64_t column = 0; column < op.m; column += kProductDepth) {
      const int64_t width = op.m - column < kProductDepth ? op.m - column : kProductDepth;
      for (int64_t i = 0; i < n; ++i) write_hidden(i, column, width);
      const T* matrix = op.mlp_out + column * op.mlp_out_stride;
      RowProduct<S>{scratch.hidden[0], kProductDepth, matrix, op.mlp_out_stride, nullptr, true, width, op.d}.write(
          scratch.out, n, scratch.product);
    }
  }

 private:
  // Where branch ((n * B + b) * W + w) * C + c has its state, terms and result.
  void find(int64_t branch, int64_t i) {
    const int64_t c = branch % op.C, w = branch / op.C % op.W, b = branch / (op.C * op.W) % op.B;
    const int64_t n = branch / (op.C * op.W * op.B);
    const T** const added = terms + i * op.K;
    const T* term = op.terms + n * op.terms_strides[1] + b * op.terms_strides[2] + w * op.terms_strides[3];
    const bool* member = op.member + c * op.member_strides[0] + b * op.member_strides[1] + w * op.member_strides[2];
    int64_t n_terms = 0;
    for (int64_t k = 0; k < op.K; ++k) {
      added[n_terms] = term + k * op.terms_strides[0];
      n_terms += member[k * op.member_strides[3]];
    }
    const T* state = op.state + n * op.state_strides[0] + b * op.state_strides[1] + w * op.state_strides[2];
    scratch.row[i] = {state, added, n_terms, T(0)};
    scratch.out[i] =
        op.out + n * op.out_strides[0] + c * op.out_strides[1] + b * op.out_strides[2] + w * op.out_strides[3];
  }

  void write_residual(int64_t i) {
    WriteResidual<S> use{op.out_bias, scratch.out[i]};
    use_totals<S>(scratch.row[i], 0, op.d, use);
    scratch.row[i].scale = T(1) / std::sqrt(use.sum_of_squares() / op.d + static_cast<T>(op.eps));
  }

  void write_hidden(int64_t i, int64_t column, int64_t n) {
    switch (op.activation) {
      case Activation::kGelu:
        write_hidden_of<Gelu<S>>(i, column, 0, n);
        break;
      case Activation::kSiluGated:
        write_hidden_of<Silu<S>>(i, column, 0, n);
        break;
      case Activation::kGeluTanh:
      case Activation::kGeluTanhGated:
        write_hidden_of<GeluTanh<S>>(i, column, 0, n);
    }
    if (op.h > op.m) write_hidden_of<void>(i, column, op.m, n);
  }

  // Of hidden columns [column, column + n), whose inputs begin at `inputs`.
  template <typename Activation>
  void write_hidden_of(int64_t i, int64_t column, int64_t inputs, int64_t n) {
    const T* bias = op.in_bias == nullptr ? nullptr : op.in_bias + inputs + column;
    WriteHidden<S, Activation> use{scratch.row[i].scale, bias, scratch.hidden[i]};
    use_totals<S>(scratch.row[i], op.d + inputs + column, n, use);
  }
};

// Branches first to last, exclusive; branch ((n * B + b) * W + w) * C + c is that of row (n, b, w).
template <typename S>
void branched_mlp_rows(const BranchedMlp<typename S::T>& op, int64_t first, int64_t last, void* scratch) {
  MlpBlock<S> block(op, scratch);
  const int64_t n = last - first, blocks = (n + block.kRows - 1) / block.kRows;
  for (int64_t i = 0; i < blocks; ++i) {  // of as equal a size as can be
    block.run(first + n * i / blocks, n * (i + 1) / blocks - n * i / blocks);
  }
}

}  // namespace
}  // namespace pilot::PILOT_ISA
