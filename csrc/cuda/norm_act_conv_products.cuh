// Products of norm_act_conv's kernels: what an m16n8 product of mma.h takes, by what is multiplied.
//
//     P               data     octets deep   an operand
//     __nv_bfloat16   itself   2             as it is
//     __half          itself   2             as it is
//     Tf32            float    1             rounded to TF32
//     Exact           float    1             a = high + low, both TF32: high high + high low + low high, as exact as
//                                            float32 sums are; an infinity becomes NaN
#pragma once

#include "cuda/mma.h"
#include "cuda/norm_act_conv_geometry.cuh"

namespace aminet::nac {

struct Exact {};

template <typename P>
struct DataOf {
  using type = P;
};
template <>
struct DataOf<Tf32> {
  using type = float;
};
template <>
struct DataOf<Exact> {
  using type = float;
};
template <typename P>
using Data = typename DataOf<P>::type;

template <typename P>
constexpr int kDeep = sizeof(Data<P>) == 2 ? 2 : 1;  // octets of a product's depth
template <typename T>
constexpr int kOctetUnits = kOctet * sizeof(T) / kUnitBytes;

template <typename P, int N>
struct Operand {
  uint32_t high[N], low[std::is_same_v<P, Exact> ? N : 1];

  // As it is in memory.
  __device__ __forceinline__ void take(int i, uint32_t bits) {
    if constexpr (sizeof(Data<P>) == 2) {
      high[i] = bits;
    } else {
      high[i] = to_tf32(__uint_as_float(bits));
      if constexpr (std::is_same_v<P, Exact>)
        low[i] = to_tf32(__uint_as_float(bits) - __uint_as_float(high[i]));
    }
  }
};

template <typename P>
__device__ __forceinline__ void multiply(float (&d)[4], const Operand<P, 4>& a, const Operand<P, 2>& b) {
  if constexpr (std::is_same_v<P, Exact>) {
    mma<Tf32>(d, a.low, b.high);
    mma<Tf32>(d, a.high, b.low);
    mma<Tf32>(d, a.high, b.high);
  } else {
    mma<P>(d, a.high, b.high);
  }
}

// A left operand from 16 rows in shared memory: lane % 16's, from the unit that lane / 16 says.
template <typename P>
__device__ __forceinline__ void load_rows(Operand<P, 4>& a, const void* row) {
  uint32_t bits[4];
  load_matrices(bits, row);
#pragma unroll
  for (int i = 0; i < 4; ++i) a.take(i, bits[i]);
}

// Right operands of COUNT neighbouring groups of eight columns, from rows [kDeep * 8][columns] that are `stride` elements
// apart: at(r) is where row r begins.
template <typename P, int COUNT, typename Rows>
__device__ __forceinline__ void load_columns(Operand<P, 2> (&b)[COUNT], Rows&& at) {
  using T = Data<P>;
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(T) == 2) {
    const T* row = at(lane % 16);
#pragma unroll
    for (int j = 0; j < COUNT; j += 2) {
      if (j + 1 < COUNT) {
        uint32_t bits[4];
        load_matrices<4, true>(bits, row + (j + lane / 16) * kOctet);
        b[j].take(0, bits[0]), b[j].take(1, bits[1]);
        b[j + 1 < COUNT ? j + 1 : j].take(0, bits[2]), b[j + 1 < COUNT ? j + 1 : j].take(1, bits[3]);
      } else {
        uint32_t bits[2];
        load_matrices<2, true>(bits, row + j * kOctet);
        b[j].take(0, bits[0]), b[j].take(1, bits[1]);
      }
    }
  } else {
    const T *upper = at(lane % 4), *lower = at(lane % 4 + 4);
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
      b[j].take(0, __float_as_uint(upper[j * kOctet + lane / 4]));
      b[j].take(1, __float_as_uint(lower[j * kOctet + lane / 4]));
    }
  }
}

// Two values that are neighbours in memory, rounded by one instruction and moved by another.
template <typename T>
__device__ __forceinline__ Vector<T, 2> narrow_pair(float first, float second) {
  Vector<T, 2> pair;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    __builtin_memcpy(&pair, &both, sizeof pair);
  } else if constexpr (std::is_same_v<T, __half>) {
    const __half2 both = __floats2half2_rn(first, second);
    __builtin_memcpy(&pair, &both, sizeof pair);
  } else {
    pair[0] = first, pair[1] = second;
  }
  return pair;
}
// Of two bfloat16 in a register one is its upper half and one its lower: an instruction each.
template <typename T>
__device__ __forceinline__ void widen_pair(const T* pair, float& first, float& second) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    uint32_t bits;
    __builtin_memcpy(&bits, pair, sizeof bits);
    first = __uint_as_float(bits << 16);
    second = __uint_as_float(bits & 0xffff0000u);
  } else {
    first = widen(pair[0]);
    second = widen(pair[1]);
  }
}

// Eight values of one pixel.
template <typename T>
struct Octet {
  static constexpr int kPart = kUnitBytes / sizeof(T);
  Vector<T, kPart> part[kOctetUnits<T>];

  __device__ __forceinline__ void read(const T* from) {
#pragma unroll
    for (int i = 0; i < kOctetUnits<T>; ++i) part[i] = load<kPart>(from + i * kPart);
  }
  __device__ __forceinline__ void write(T* to) const {
#pragma unroll
    for (int i = 0; i < kOctetUnits<T>; ++i) store(to + i * kPart, part[i]);
  }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kOctetUnits<T>; ++i) __builtin_memset(&part[i], 0, sizeof part[i]);
  }
  __device__ __forceinline__ void widen_to(float (&to)[kOctet]) const {
#pragma unroll
    for (int i = 0; i < kOctet; i += 2) widen_pair(&part[i / kPart].values[i % kPart], to[i], to[i + 1]);
  }
  __device__ __forceinline__ void narrow_from(const float (&from)[kOctet]) {
#pragma unroll
    for (int i = 0; i < kOctet; i += 2) {
      const Vector<T, 2> pair = narrow_pair<T>(from[i], from[i + 1]);
      __builtin_memcpy(&part[i / kPart].values[i % kPart], &pair, sizeof pair);
    }
  }
};

__device__ __forceinline__ void read_octet(float (&to)[kOctet], const float* from) {
#pragma unroll
  for (int i = 0; i < kOctet; i += 4) {
    const Vector<float, 4> v = load<4>(from + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) to[i + j] = v[j];
  }
}

}  // namespace aminet::nac
