// Vectors as wide as the capability's registers, in the vector extension of GCC and clang. For csrc/cpu/kernels only.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace aminet {
namespace AMINET_CAPABILITY {
// Unnamed, so that no copy of the kernels is linked to another's.
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;
template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <typename T>
inline Vector<T> load(const T* from) {
  Vector<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename T>
inline void store(T* to, const Vector<T>& v) {
  std::memcpy(to, &v, sizeof v);
}

template <typename T>
inline T lane_sum(const Vector<T>& v) {
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

// Sums by halves, so that they do not wait for each other.
template <typename Acc>
inline Acc halved_sum(const Vector<Acc>& v) {
  Acc part[kLanes<Acc>];
  store(part, v);
  for (int half = kLanes<Acc> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

// v rounded to T. c10's own conversion to bfloat16 asks for NaN by a branch, which keeps a loop from being vectorised.
template <typename T, typename Acc>
inline T narrowed(Acc v) {
  if constexpr (std::is_same_v<T, c10::BFloat16> && std::is_same_v<Acc, float>) {
    const uint32_t bits = std::bit_cast<uint32_t>(v);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to the nearest, ties to even
    const uint32_t kept = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0u : rounded;
    return c10::BFloat16(static_cast<uint16_t>(kept), c10::BFloat16::from_bits());
  } else {
    return static_cast<T>(v);
  }
}

template <typename T, typename Acc>
inline Vector<Acc> load_as(const T* from) {
  if constexpr (std::is_same_v<T, Acc>) {
    return load(from);
  } else {
    Vector<Acc> v;
    for (int i = 0; i < kLanes<Acc>; ++i) v[i] = static_cast<Acc>(from[i]);
    return v;
  }
}

template <typename T, typename Acc>
inline void store_as(T* to, const Vector<Acc>& v) {
  if constexpr (std::is_same_v<T, Acc>) {
    store(to, v);
  } else {
    for (int i = 0; i < kLanes<Acc>; ++i) to[i] = narrowed<T>(v[i]);
  }
}

// For rows read as whole vectors of which the last overlaps the one before it: 1 in the lanes of the last one that the
// others have not met.
template <typename Acc>
inline Vector<Acc> met_once(int64_t count) {
  const int64_t fresh = count % kLanes<Acc> == 0 ? kLanes<Acc> : count % kLanes<Acc>;
  Vector<Acc> once;
  for (int i = 0; i < kLanes<Acc>; ++i) once[i] = i >= kLanes<Acc> - fresh ? Acc(1) : Acc(0);
  return once;
}

// exp to about one unit in the last place; x is held within +-87, where nothing overflows; NaN stays NaN.
inline Vector<float> exponential(Vector<float> x) {
  const Vector<float> limit = Vector<float>{} + 87.f;
  x = x > limit ? limit : x;
  x = x < -limit ? -limit : x;
  // Added to a float this rounds it to an integer, which is then in the low bits.
  constexpr float kRound = 12582912.f;
  const Vector<float> shifted = x * 1.44269504f + kRound, n = shifted - kRound;
  const Vector<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  Vector<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  typedef Vector<int32_t> Bits;
  const Bits power = ((Bits)shifted << 23) + 0x3f800000;  // 2^n
  return p * (Vector<float>)power;
}

inline Vector<double> exponential(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

template <typename T>
inline Vector<T> sigmoid(const Vector<T>& z) {
  return T(1) / (T(1) + exponential(-z));
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
