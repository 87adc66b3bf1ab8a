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
//
// gelu: the polynomial, in u = 2 y^2 / reach^2 - 1, is (Phi(y) - 1/2) / y for 0 <= y <= reach, Phi being the normal
// distribution function; times y^2 it is right to 9.1e-8, 6.9e-17. Beyond reach, y Phi(-y) is below 1.8e-7, 1.9e-16.
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
  static constexpr float gelu_reach = 5.4f;
  static constexpr float gelu_polynomial[] = {0.130928114f,   -0.0653279579f,  0.0484993832f,  -0.0392102543f,
                                              0.0321218644f,  -0.025712454f,   0.0195998901f,  -0.014104369f,
                                              0.00982519809f, -0.006435711f,   0.00332978397f, -0.00144874761f,
                                              0.00117413148f, -9.34844151e-4f, 2.88560672e-4f};
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
  static constexpr double gelu_reach = 8.4;
  static constexpr double gelu_polynomial[] = {
      0.0841793784723105032,  -0.0420896848817844024,  0.0315672252557877666,   -0.0263057952218643259,
      0.023016574932490406,   -0.020711403950285201,   0.0189751239655834895,   -0.0175937272679130514,
      0.0164367215692127074,  -0.0154110701395897944,  0.0144420669995494433,   -0.0134673769319732797,
      0.012438426616690988,   -0.0113251667530466451,  0.0101208304112726607,   -0.00884332527663498205,
      0.00753017201480038736, -0.00623048355781031383, 0.00500188979523240676,  -0.00389888650347127053,
      0.00294136167789034801, -0.00212509443914517318, 0.00148588183983571049,  -0.0010512389600978,
      7.20746860625068587e-4, -4.04370222590115097e-4, 2.08842066190482966e-4,  -1.89937235104693305e-4,
      1.59755241856024119e-4, -3.56201417297813195e-5, -2.32649612082482717e-5, -2.08420655074675345e-5,
      3.74820056178978632e-5, -5.17415384635881865e-6, -8.70810535828607683e-6, 7.19609117866109504e-7,
      2.5383042404061777e-6,  -7.57345533852498672e-7};
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

  // x Phi(x) = max(x, 0) - |x| Phi(-|x|), to within 5e-7, 2e-15 and half a unit in the last place of x; NaN at NaN. Of
  // several vectors side by side: each step of one waits for the step before.
  template <int Width>
  static PILOT_INLINE void gelu(V (&x)[Width]) {
    using F = Format<T>;
    constexpr int degree = sizeof F::gelu_polynomial / sizeof(T) - 1;
    const V reach = splat(F::gelu_reach);
    V y[Width], square[Width], u[Width], p[Width];
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) {
      y[j] = max(x[j], -x[j]);
      y[j] = reach < y[j] ? reach : y[j];
      square[j] = y[j] * y[j];
      u[j] = square[j] * (2 / (F::gelu_reach * F::gelu_reach)) - T(1);
      p[j] = splat(F::gelu_polynomial[degree]);
    }
    PILOT_UNROLL
    for (int i = degree - 1; i >= 0; --i) {
      PILOT_UNROLL
      for (int j = 0; j < Width; ++j) p[j] = p[j] * u[j] + F::gelu_polynomial[i];
    }
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) x[j] = max(x[j], V{}) - (y[j] * T(0.5) - square[j] * p[j]);
  }

  static PILOT_INLINE V gelu(V x) {
    V one[1] = {x};
    gelu(one);
    return one[0];
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
