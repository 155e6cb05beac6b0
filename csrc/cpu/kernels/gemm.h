// Small matrix products in registers: c[i][j] (+)= sum over p of a(i, p) * b[p][j], vectors along j.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <cstdlib>
#include <memory>
#include <new>

#include "vectors.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Uninitialised memory on the border of a cache line: a vector across two lines costs twice.
struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};
template <typename T>
using Scratch = std::unique_ptr<T[], FreeAligned>;
template <typename T>
inline Scratch<T> scratch(int64_t count) {
  void* memory = std::aligned_alloc(64, (count * sizeof(T) + 127) / 64 * 64);
  if (memory == nullptr) throw std::bad_alloc();
  return Scratch<T>(static_cast<T*>(memory));
}

template <typename T>
constexpr int64_t padded_to_vectors(int64_t count) {
  return (count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// The first `count` lanes of a vector, to memory and from it (the others are zero); all of them if there are fewer.
#if defined(__AVX512F__)
inline void store_some(float* to, const Vector<float>& v, int64_t count) {
  _mm512_mask_storeu_ps(to, count >= 16 ? 0xffff : (1u << count) - 1, (__m512)v);
}
inline void store_some(double* to, const Vector<double>& v, int64_t count) {
  _mm512_mask_storeu_pd(to, count >= 8 ? 0xff : (1u << count) - 1, (__m512d)v);
}
inline Vector<float> load_some(const float* from, int64_t count) {
  return (Vector<float>)_mm512_maskz_loadu_ps(count >= 16 ? 0xffff : (1u << count) - 1, from);
}
inline Vector<double> load_some(const double* from, int64_t count) {
  return (Vector<double>)_mm512_maskz_loadu_pd(count >= 8 ? 0xff : (1u << count) - 1, from);
}
#else
template <typename T>
inline void store_some(T* to, const Vector<T>& v, int64_t count) {
  if (count >= kLanes<T>) return store(to, v);
  for (int64_t i = 0; i < count; ++i) to[i] = v[i];
}
template <typename T>
inline Vector<T> load_some(const T* from, int64_t count) {
  if (count >= kLanes<T>) return load(from);
  Vector<T> v = {};
  for (int64_t i = 0; i < count; ++i) v[i] = from[i];
  return v;
}
#endif

template <typename T>
struct Gemm {
  const T* a;
  int64_t a_row, a_step;  // distances of a's elements along i and along p
  const T* b;
  int64_t b_pitch;
  T* c;
  int64_t c_pitch;
  int64_t rows, columns, depth;  // columns may be rounded up to half a vector: b and c must have room
  bool add;

  typedef T Half __attribute__((vector_size(kVectorBytes / 2)));

  template <typename V, int kRows, int kCount>
  void block(int64_t i, int64_t j) const {
    constexpr int lanes = sizeof(V) / sizeof(T);
    V sum[kRows][kCount] = {};
    T* to = c + i * c_pitch + j;
    if (add)
      for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < kCount; ++v) std::memcpy(&sum[m][v], to + m * c_pitch + v * lanes, sizeof(V));
    const T *from = a + i * a_row, *other = b + j;
    for (int64_t p = 0; p < depth; ++p, from += a_step, other += b_pitch) {
      V x[kCount];
#pragma GCC unroll 4
      for (int v = 0; v < kCount; ++v) std::memcpy(&x[v], other + v * lanes, sizeof(V));
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < kCount; ++v) sum[m][v] += x[v] * from[m * a_row];
    }
    for (int m = 0; m < kRows; ++m)
      for (int v = 0; v < kCount; ++v) std::memcpy(to + m * c_pitch + v * lanes, &sum[m][v], sizeof(V));
  }

  template <typename V, int kRows, int kCount>
  void panel(int64_t i, int64_t j) const {
    for (; i + kRows <= rows; i += kRows) block<V, kRows, kCount>(i, j);
    if constexpr (kRows > 1) panel<V, kRows / 2, kCount>(i, j);
  }

  void run() const {
    int64_t vectors = columns / kLanes<T>, j = 0;
    const int64_t rest = columns % kLanes<T>;
    const bool half = rest > 0 && rest <= kLanes<T> / 2;
    if (rest > kLanes<T> / 2) ++vectors;
#if defined(__AVX512F__)  // 32 registers
    for (; vectors >= 4; vectors -= 4, j += 4 * kLanes<T>) panel<Vector<T>, 6, 4>(0, j);
    if (vectors == 3) panel<Vector<T>, 8, 3>(0, j);
    if (vectors == 2) panel<Vector<T>, 12, 2>(0, j);
    if (vectors == 1) panel<Vector<T>, 16, 1>(0, j);
    if (half) panel<Half, 16, 1>(0, j + vectors * kLanes<T>);
#else
    for (; vectors >= 2; vectors -= 2, j += 2 * kLanes<T>) panel<Vector<T>, 6, 2>(0, j);
    if (vectors == 1) panel<Vector<T>, 8, 1>(0, j);
    if (half) panel<Half, 8, 1>(0, j + vectors * kLanes<T>);
#endif
  }
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
