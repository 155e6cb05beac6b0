// Products of a warp in steps of 16, D [16, 8] += A [16, 16] B [16, 8], from tiles in shared memory, for channel_attention.
//
// 16 bits: one mma. float: each factor is the sum of two tf32 numbers, and three of the four products are made: what is
// left out is 2^-22 of the product, as float's own rounding is.
#pragma once

#include "cuda/mma.h"

namespace aminet::channel_attention {

// `along`: A[m][k] at [m * pitch + k], B[k][n] at [n * pitch + k]. `across`: A at [k * pitch + m], B at [k * pitch + n].
template <typename T>
struct Product {
  struct A {
    uint32_t part[4];
  };
  struct B {
    uint32_t part[2];
  };
  static __device__ __forceinline__ A along_a(const T* at, int pitch) {
    const int lane = threadIdx.x % 32;
    A a;
    load_matrices<4>(a.part, at + lane % 16 * pitch + lane / 16 * 8);
    return a;
  }
  static __device__ __forceinline__ A across_a(const T* at, int pitch) {
    const int lane = threadIdx.x % 32;
    A a;
    load_matrices<4, true>(a.part, at + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
    return a;
  }
  static __device__ __forceinline__ B along_b(const T* at, int pitch) {
    const int lane = threadIdx.x % 32;
    B b;
    load_matrices<2>(b.part, at + lane % 8 * pitch + lane / 8 % 2 * 8);
    return b;
  }
  static __device__ __forceinline__ B across_b(const T* at, int pitch) {
    const int lane = threadIdx.x % 32;
    B b;
    load_matrices<2, true>(b.part, at + lane % 16 * pitch);
    return b;
  }
  static __device__ __forceinline__ void add(float (&d)[4], const A& a, const B& b) { mma<T>(d, a.part, b.part); }
};

template <>
struct Product<float> {
  struct A {
    uint32_t high[2][4], low[2][4];
  };
  struct B {
    uint32_t high[2][2], low[2][2];
  };
  static __device__ __forceinline__ void split(uint32_t& high, uint32_t& low, float v) {
    high = to_tf32(v);
    float rounded;
    memcpy(&rounded, &high, sizeof rounded);
    low = to_tf32(v - rounded);
  }
  static __device__ __forceinline__ A a_from(const float* at, int of_m, int of_k) {
    const int group = threadIdx.x % 32 / 4, four = threadIdx.x % 4;
    A a;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        split(a.high[half][i], a.low[half][i],
              at[(group + i % 2 * 8) * of_m + (8 * half + four + i / 2 * 4) * of_k]);
    return a;
  }
  static __device__ __forceinline__ B b_from(const float* at, int of_k, int of_n) {
    const int group = threadIdx.x % 32 / 4, four = threadIdx.x % 4;
    B b;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        split(b.high[half][i], b.low[half][i], at[(8 * half + four + i * 4) * of_k + group * of_n]);
    return b;
  }
  static __device__ __forceinline__ A along_a(const float* at, int pitch) { return a_from(at, pitch, 1); }
  static __device__ __forceinline__ A across_a(const float* at, int pitch) { return a_from(at, 1, pitch); }
  static __device__ __forceinline__ B along_b(const float* at, int pitch) { return b_from(at, 1, pitch); }
  static __device__ __forceinline__ B across_b(const float* at, int pitch) { return b_from(at, pitch, 1); }
  static __device__ __forceinline__ void add(float (&d)[4], const A& a, const B& b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      mma<Tf32>(d, a.low[half], b.high[half]);
      mma<Tf32>(d, a.high[half], b.low[half]);
      mma<Tf32>(d, a.high[half], b.high[half]);
    }
  }
};

}  // namespace aminet::channel_attention
