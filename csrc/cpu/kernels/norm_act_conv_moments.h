// Sums over pixels for the moments of each channel, about a pivot, so that a mean far from zero costs no digits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gemm.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// y [pixels][channels] -> partial [3][channels]: the first pixel, and the sums of y - it and of (y - it)^2. Sums of a
// few pixels are added to sums of many, which keeps the rounding of float small.
template <typename T, typename Acc>
void sum_moments(const T* y, int64_t pixels, int64_t C, Acc* partial) {
  constexpr int64_t kFew = 64;
  Acc *pivot = partial, *sum = partial + C, *squares = partial + 2 * C;
  for (int64_t c = 0; c < C; ++c) pivot[c] = static_cast<Acc>(y[c]);
  std::fill_n(sum, 2 * C, Acc(0));
  const Scratch<Acc> few = scratch<Acc>(2 * C);
  for (int64_t p = 0; p < pixels; p += kFew) {
    Acc *s = few.get(), *q = s + C;
    std::fill_n(s, 2 * C, Acc(0));
    for (int64_t i = p; i < std::min(pixels, p + kFew); ++i) {
      const T* from = y + i * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        const Acc d = static_cast<Acc>(from[c]) - pivot[c];
        s[c] += d;
        q[c] += d * d;
      }
    }
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      sum[c] += s[c];
      squares[c] += q[c];
    }
  }
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
