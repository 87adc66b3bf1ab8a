// 16 bytes of T as floats and back.
#pragma once

#include "cuda/device.cuh"

namespace pilot::cuda {

template <typename T>
constexpr int kPerUnit = 16 / sizeof(T);  // a unit is 16 bytes: what one instruction loads or stores

constexpr float kLog2E = 1.4426950408889634f;

__device__ inline float2 unpack(__half2 x) { return __half22float2(x); }
__device__ inline float2 unpack(__nv_bfloat162 x) { return __bfloat1622float2(x); }

template <typename T>
struct PairOf;
template <>
struct PairOf<__half> {
  using type = __half2;
  static __device__ type pack(float x, float y) { return __floats2half2_rn(x, y); }
};
template <>
struct PairOf<__nv_bfloat16> {
  using type = __nv_bfloat162;
  static __device__ type pack(float x, float y) { return __floats2bfloat162_rn(x, y); }
};

// Two 16-bit values in a register, the first in the low half.
template <typename T>
__device__ inline uint32_t pack(float x, float y) {
  const auto pair = PairOf<T>::pack(x, y);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

template <typename T>
__device__ inline void load_unit(float (&x)[kPerUnit<T>], const T* from) {
  if constexpr (std::is_same_v<T, float>) {
    const float4 unit = *reinterpret_cast<const float4*>(from);
    x[0] = unit.x, x[1] = unit.y, x[2] = unit.z, x[3] = unit.w;
  } else {
    const uint4 unit = *reinterpret_cast<const uint4*>(from);
    const uint32_t words[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      typename PairOf<T>::type pair;
      memcpy(&pair, &words[i], sizeof pair);
      const float2 both = unpack(pair);
      x[2 * i] = both.x, x[2 * i + 1] = both.y;
    }
  }
}

template <typename T>
__device__ inline void store_unit(T* to, const float (&x)[kPerUnit<T>]) {
  if constexpr (std::is_same_v<T, float>) {
    *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
  } else {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
  }
}

}  // namespace pilot::cuda
