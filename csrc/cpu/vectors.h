// Vectors of N numbers in whatever registers this is compiled for, and the few things that kernels do with them beyond
// + - * <, which the compiler's own vector types (GCC, clang) have. A compiler without them gets N = 1: plain
// numbers (MSVC; not tested).
//
// Included by isa_*.cpp after PILOT_ISA is defined. Everything is in an anonymous namespace: a function
// compiled for AVX-512 must not be the one that the linker keeps for everybody.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__GNUC__) || defined(__clang__)
#define PILOT_INLINE inline __attribute__((always_inline))
#define PILOT_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define PILOT_UNROLL PILOT_PRAGMA(unroll)
#else
#define PILOT_UNROLL PILOT_PRAGMA(GCC unroll 64)
#endif
#define PILOT_PREFETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define PILOT_INLINE inline
#define PILOT_UNROLL
#define PILOT_PREFETCH(address)
#endif

namespace pilot::PILOT_ISA {
namespace {

template <typename T, int N>
struct VectorOf {
#if defined(__GNUC__) || defined(__clang__)
  typedef T type __attribute__((vector_size(N * sizeof(T))));
#endif
};
template <typename T>
struct VectorOf<T, 1> {
  using type = T;
};

// What float and double differ in.
//
// exp2: adding `magic` (1.5 * 2^mantissa bits) rounds to a whole number, which is then in the low bits. The polynomial
// is 2^f on [-1/2, 1/2], to a relative error of 2.6e-9, 1.8e-17; exact at f = 0.
template <typename T>
struct Format;
template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float magic = 12582912.0f, lowest = -3.402823466e38f;
  static constexpr float exp2_polynomial[] = {0.693147214968027899f,   0.240226527828877374f,
                                              0.0555031055101379717f,  0.00961769297299306232f,
                                              0.00134066439023517592f, 0.000155946781613266193f};
};
template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double magic = 6755399441055744.0, lowest = -1.7976931348623157e308;
  static constexpr double exp2_polynomial[] = {
      0.693147180559945697,   0.24022650695910098,     0.0555041086647903946,    0.00961812910760700238,
      0.00133335581534399647, 0.000154035304415721303, 0.0000152527273851938682, 1.32154426753298221e-6,
      1.01806476592341389e-7, 7.07257041281442351e-9,  4.07807192958833667e-10};
};

template <typename T_, int N_>
struct Simd {
  using T = T_;
  static constexpr int N = N_;
  using V = typename VectorOf<T, N>::type;
  using Bits = typename VectorOf<typename Format<T>::Bits, N>::type;

  static PILOT_INLINE V splat(T x) { return V{} + x; }

  static PILOT_INLINE V load(const T* from) {
    V x;
    std::memcpy(&x, from, sizeof x);
    return x;
  }

  // The first n numbers, the rest zero.
  static PILOT_INLINE V load(const T* from, int64_t n) {
    V x{};
    std::memcpy(&x, from, n * sizeof(T));
    return x;
  }

  static PILOT_INLINE void store(T* to, V x) { std::memcpy(to, &x, sizeof x); }

  // The first n numbers.
  static PILOT_INLINE void store(T* to, V x, int64_t n) { std::memcpy(to, &x, n * sizeof(T)); }

  // Of all numbers, in pairs.
  static PILOT_INLINE T sum(V x) {
    T numbers[N];
    store(numbers, x);
    PILOT_UNROLL
    for (int half = N / 2; half > 0; half /= 2) {
      PILOT_UNROLL
      for (int i = 0; i < half; ++i) numbers[i] += numbers[i + half];
    }
    return numbers[0];
  }

  // 0, 1, 2, ...
  static PILOT_INLINE V lane_numbers() {
    T numbers[N];
    for (int lane = 0; lane < N; ++lane) numbers[lane] = static_cast<T>(lane);
    return load(numbers);
  }

  // m where x is NaN.
  static PILOT_INLINE V max(V x, V m) { return x > m ? x : m; }

  // 2^x for x <= 0, to within 1.3 units in the last place (1.1 with FMA); exactly 1 at 0; 0 where 2^x is not a normal
  // number; NaN at NaN.
  static PILOT_INLINE V exp2(V x) {
    using F = Format<T>;
    constexpr int degree = sizeof F::exp2_polynomial / sizeof(T);
    const V rounded = x + F::magic;
    const V f = x - (rounded - F::magic);
    V power = splat(F::exp2_polynomial[degree - 1]);
    PILOT_UNROLL
    for (int i = degree - 2; i >= 0; --i) power = power * f + F::exp2_polynomial[i];
    power = power * f + T(1);
    Bits bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    bits = (bits << F::mantissa) + (static_cast<typename F::Bits>(F::bias) << F::mantissa);
    V scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return x < splat(T(1 - F::bias)) ? V{} : power * scale;
  }

  // Rows to columns. Log2(N) times, put row i and row i + N/2 together like the teeth of a zip.
  static PILOT_INLINE void transpose(V (&x)[N]) {
    if constexpr (N > 1) {
      PILOT_UNROLL
      for (int step = 1; step < N; step *= 2) {
        V y[N];
        PILOT_UNROLL
        for (int i = 0; i < N / 2; ++i) {
          y[2 * i] = zip<0>(x[i], x[i + N / 2], std::make_integer_sequence<int, N>{});
          y[2 * i + 1] = zip<N / 2>(x[i], x[i + N / 2], std::make_integer_sequence<int, N>{});
        }
        PILOT_UNROLL
        for (int i = 0; i < N; ++i) x[i] = y[i];
      }
    }
  }

 private:
  template <int From, int... I>
  static PILOT_INLINE V zip(V a, V b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (From + I / 2 + (I % 2) * N)...);
#else  // GCC has __builtin_shufflevector from version 12 on only
    return __builtin_shuffle(a, b, Bits{(From + I / 2 + (I % 2) * N)...});
#endif
  }
};

}  // namespace
}  // namespace pilot::PILOT_ISA
