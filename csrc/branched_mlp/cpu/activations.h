// Activation functions of vectors, several side by side: each step of one waits for the step before. Included by an
// instruction-set unit after PILOT_ISA is defined.
#pragma once

#include <type_traits>

#include "cpu/vectors.h"

namespace pilot::PILOT_ISA {
namespace {

// Whether one instruction picks each lane's own of 32 numbers: vpermi2ps, which GCC's __builtin_shuffle becomes.
#if defined(__GNUC__) && !defined(__clang__)
template <typename S>
constexpr bool kPicksOf32 = std::is_same_v<typename S::T, float> && S::N == 16;
#else
template <typename S>
constexpr bool kPicksOf32 = false;
#endif

// Phi(-y) for 0 <= y < 5.4, Phi being the normal distribution function: in the i-th 32nd of that range the cubic
// a[0][i] + a[1][i] f + a[2][i] f^2 + a[3][i] f^3, f in [-1/2, 1/2] being the place in it. They are interpolated at
// Chebyshev's points; times y they are right to 1.4e-7.
alignas(64) constexpr float kPhiCubics[4][32] = {
    {0.466379168f,    0.400085886f,    0.336558244f,    0.277385993f,    0.223814277f,    0.176671502f,
     0.136348133f,    0.102823769f,    0.0757326899f,   0.0544535499f,   0.0382076493f,   0.026151866f,
     0.0174560781f,   0.0113595264f,   0.00720500175f,  0.00445318115f,  0.00268152055f,  0.00157285004f,
     0.000898499131f, 0.000499813295f, 0.000270707019f, 0.00014273813f,  7.32624278e-05f, 3.65998887e-05f,
     1.77949003e-05f, 8.4196163e-06f,  3.87647218e-06f, 1.73659325e-06f, 7.56917461e-07f, 3.20968239e-07f,
     1.32408195e-07f, 5.31355171e-08f},
    {-0.067082274f,    -0.065198947f,    -0.0615894309f,   -0.0565463534f,   -0.0504586716f,   -0.0437622676f,
     -0.036888977f,    -0.0302222077f,   -0.0240651479f,   -0.0186244583f,   -0.0140091415f,   -0.010241702f,
     -0.0072772196f,   -0.00502564196f,  -0.00337326386f,  -0.00220060335f,  -0.00139529455f,  -0.000859849968f,
     -0.00051500577f,  -0.000299801723f, -0.000169624565f, -9.32772945e-05f, -4.98535031e-05f, -2.58969097e-05f,
     -1.30747291e-05f, -6.41578681e-06f, -3.05984615e-06f, -1.41834429e-06f, -6.38993031e-07f, -2.79796917e-07f,
     -1.19075398e-07f, -4.92530854e-08f},
    {0.000476721317f, 0.00139005915f,  0.00218865312f,  0.00281350266f,  0.00322835741f,  0.00342270166f,
     0.00341039294f,  0.00322466408f,  0.00291086282f,  0.00251856669f,  0.00209456393f,  0.00167773772f,
     0.00129630016f,  0.000967266376f, 0.000697661093f, 0.000486765505f, 0.00032872372f,  0.00021497678f,
     0.000136200605f, 8.36263441e-05f, 4.9774962e-05f,  2.87270802e-05f, 1.60797342e-05f, 8.73081708e-06f,
     4.5992937e-06f,  2.35098909e-06f, 1.16624291e-06f, 5.61507895e-07f, 2.62419062e-07f, 1.19054876e-07f,
     5.24381006e-08f, 2.2424713e-08f},
    {0.000315693731f,  0.000289253483f,  0.000240029272f,  0.000174632384f,  0.00010139789f,   2.89154723e-05f,
     -3.53489076e-05f, -8.60636471e-05f, -0.000120515385f, -0.000138549854f, -0.000142078308f, -0.000134333986f,
     -0.000119078768f, -9.99242036e-05f, -7.98649312e-05f, -6.10508331e-05f, -4.47669369e-05f, -3.15572478e-05f,
     -2.14208673e-05f, -1.40195364e-05f, -8.8559974e-06f,  -5.40396588e-06f, -3.1875645e-06f,  -1.8185575e-06f,
     -1.00398725e-06f, -5.36590233e-07f, -2.7773197e-07f,  -1.39255408e-07f, -6.76579541e-08f, -3.18602768e-08f,
     -1.4544388e-08f,  -6.43780419e-09f},
};

// (Phi(y) - 1/2) / y for 0 <= y <= reach, a polynomial in u = 2 y^2 / reach^2 - 1: times y^2 it is right to 9.1e-8,
// 6.9e-17. Beyond reach, y Phi(-y) is below 1.8e-7, 1.9e-16.
template <typename T>
struct PhiPolynomial;
template <>
struct PhiPolynomial<float> {
  static constexpr float reach = 5.4f;
  static constexpr float coefficients[] = {0.130928114f,   -0.0653279579f,  0.0484993832f,  -0.0392102543f,
                                           0.0321218644f,  -0.025712454f,   0.0195998901f,  -0.014104369f,
                                           0.00982519809f, -0.006435711f,   0.00332978397f, -0.00144874761f,
                                           0.00117413148f, -9.34844151e-4f, 2.88560672e-4f};
};
template <>
struct PhiPolynomial<double> {
  static constexpr double reach = 8.4;
  static constexpr double coefficients[] = {
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

// x Phi(x) = max(x, 0) - |x| Phi(-|x|), to within 5e-7, 2e-15 and half a unit in the last place of x; NaN at NaN.
template <typename S>
struct Gelu {
  using V = typename S::V;

  template <int Width>
  static PILOT_INLINE void apply(V (&x)[Width]) {
    if constexpr (kPicksOf32<S>) {
      apply_cubics(x);
    } else {
      apply_polynomial(x);
    }
  }

 private:
  template <int Width>
  static PILOT_INLINE void apply_polynomial(V (&x)[Width]) {
    using T = typename S::T;
    using P = PhiPolynomial<T>;
    constexpr int degree = sizeof P::coefficients / sizeof(T) - 1;
    const V reach = S::splat(P::reach);
    V y[Width], square[Width], u[Width], p[Width];
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) {
      y[j] = S::max(x[j], -x[j]);
      y[j] = reach < y[j] ? reach : y[j];
      square[j] = y[j] * y[j];
      u[j] = square[j] * (2 / (P::reach * P::reach)) - T(1);
      p[j] = S::splat(P::coefficients[degree]);
    }
    PILOT_UNROLL
    for (int i = degree - 1; i >= 0; --i) {
      PILOT_UNROLL
      for (int j = 0; j < Width; ++j) p[j] = p[j] * u[j] + P::coefficients[i];
    }
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) x[j] = S::max(x[j], V{}) - (y[j] * T(0.5) - square[j] * p[j]);
  }

#if defined(__GNUC__) && !defined(__clang__)
  template <int Width>
  static PILOT_INLINE void apply_cubics(V (&x)[Width]) {
    const V reach = S::splat(5.3999f);
    V low[4], high[4];
    PILOT_UNROLL
    for (int i = 0; i < 4; ++i) low[i] = S::load(kPhiCubics[i]), high[i] = S::load(kPhiCubics[i] + 16);
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) {
      V y = S::max(x[j], -x[j]);
      y = reach < y ? reach : y;
      const V place = y * (32 / 5.4f) - 0.5f;
      const V rounded = place + Format<float>::magic;
      const V f = place - (rounded - Format<float>::magic);
      typename S::Bits index;  // modulo 32
      std::memcpy(&index, &rounded, sizeof index);
      V phi = __builtin_shuffle(low[3], high[3], index);
      PILOT_UNROLL
      for (int i = 2; i >= 0; --i) phi = phi * f + __builtin_shuffle(low[i], high[i], index);
      x[j] = S::max(x[j], V{}) - y * phi;
    }
  }
#endif
};

// x sigmoid(x) = x / (1 + 2^-x'), x' being x / log 2; at an exponent that is never positive, so that nothing overflows.
template <typename V, typename S>
PILOT_INLINE V times_sigmoid(V x, V base_2_exponent) {
  const V power = S::exp2(-S::max(base_2_exponent, -base_2_exponent));
  const V one = S::splat(1);
  return x * (base_2_exponent < V{} ? power : one) / (one + power);
}

template <typename S>
struct Silu {
  template <int Width>
  static PILOT_INLINE void apply(typename S::V (&x)[Width]) {
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) {
      x[j] = times_sigmoid<typename S::V, S>(x[j], x[j] * static_cast<typename S::T>(1.4426950408889634));
    }
  }
};

// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: a sigmoid too, as (1 + tanh(u)) / 2 = sigmoid(2 u).
template <typename S>
struct GeluTanh {
  template <int Width>
  static PILOT_INLINE void apply(typename S::V (&x)[Width]) {
    using T = typename S::T;
    constexpr double linear = 2 * 0.7978845608028654 * 1.4426950408889634;
    PILOT_UNROLL
    for (int j = 0; j < Width; ++j) {
      const typename S::V cubic = x[j] * x[j] * static_cast<T>(0.044715 * linear) + static_cast<T>(linear);
      x[j] = times_sigmoid<typename S::V, S>(x[j], x[j] * cubic);
    }
  }
};

}  // namespace
}  // namespace pilot::PILOT_ISA
