// The twin of csrc/cuda/mma.h: the same fragments and rounding; sums in float, in order.
#pragma once

#include <bit>
#include <type_traits>

#include "collectives.h"

namespace aminet {
struct Tf32;
}

namespace emulated {

inline uint32_t to_tf32(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  if (v != v) return 0x7fffffffu;  // a NaN that is still one without its last bits
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;  // nearest, ties away from zero
}

// Element k of a register: one of two of 16 bits, or the one float, of which tensor cores drop the last 13 bits.
template <typename T>
float element(uint32_t bits, int k) {
  if constexpr (std::is_same_v<T, aminet::Tf32>) {
    return std::bit_cast<float>(bits & ~0x1fffu);
  } else {
    const uint16_t half = static_cast<uint16_t>(k ? bits >> 16 : bits);
    T value;
    __builtin_memcpy(static_cast<void*>(&value), &half, sizeof value);
    return static_cast<float>(value);
  }
}

template <typename T>
EMULATED_UNSEEN void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  constexpr int each = std::is_same_v<T, aminet::Tf32> ? 1 : 2;  // elements of a register
  struct Fragments {
    uint32_t a[4], b[2];
  };
  const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const Given given = from_all("mma", ~0u, mine);
  const auto of = [&](unsigned lane) { return reinterpret_cast<const Fragments*>(given[lane]); };
  const int group = fiber->lane / 4, four = fiber->lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i >= 2 ? 8 : 0), column = 2 * four + i % 2;
    for (int half = 0; half < 2; ++half)  // of k
      for (int lane = 0; lane < 4; ++lane)
        for (int k = 0; k < each; ++k)
          d[i] += element<T>(of(row % 8 * 4 + lane)->a[row / 8 + 2 * half], k) *
                  element<T>(of(column * 4 + lane)->b[half], k);
  }
}

template <typename T>
EMULATED_INLINE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, aminet::Tf32>)
    EMULATED_COUNT(kProductTf32, nullptr, 0);
  else
    EMULATED_COUNT(kProduct, nullptr, 0);
  multiply<T>(d, a, b);
}

// One to four 8x8 matrices of 16 bits.
template <int N>
EMULATED_INLINE void load_matrices(uint32_t (&out)[N], int matrices, bool transposed, const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 && static_cast<int>(fiber->lane) < 8 * matrices)
    fail("ldmatrix: a row's address is no multiple of 16");
  EMULATED_COUNT(kMatrices, nullptr, 4 * N);
  const Given given = from_all("ldmatrix", ~0u, row);
  const void* rows[kWarp];  // others may meet again while this lane reads
  for (unsigned lane = 0; lane < kWarp; ++lane) rows[lane] = from_lane<const void*>(given, lane);
  EMULATED_UNCOUNTED;
  for (int i = 0; i < N; ++i) {
    uint32_t bits = 0;
    for (int k = 0; k < 2; ++k) {
      const int r = transposed ? 2 * (fiber->lane % 4) + k : fiber->lane / 4;
      const int c = transposed ? fiber->lane / 4 : 2 * (fiber->lane % 4) + k;
      bits |= static_cast<uint32_t>(static_cast<const uint16_t*>(rows[8 * i + r])[c]) << (16 * k);
    }
    out[i] = bits;
  }
}

}  // namespace emulated
