// Depthwise convolution of rows, for the operators that hold rows of their input in cache.
//   out[x][c] (+)= bias[c] + sum_{ky,kx} rows[ky][x + kx][c] * weight[ky * K + kx][c]
//   dweight[ky * K + kx][c] += sum_x rows[ky][x + kx][c] * dout[x][c]
// Rows are channels-last, [width + K - 1][C], their border pixels included (zeros outside the image); rows[ky] is pixel
// -K/2 of the row K/2 - ky above the output's, or null for a row of zeros. Vectors run along the channels,
// as many lanes as fit and then halves, so that 24 channels are one vector of 16 and one of 8. A strip of kStrip pixels
// of one vector is held in registers with one row of the kernel: an input vector is loaded once for K multiplications.
// All channels of a strip follow each other, so that its lines are in the first cache for the next vector.
#pragma once

#include <algorithm>

#include "vectors.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

template <typename Acc, int L>
struct LanesOf {
  typedef Acc type __attribute__((vector_size(L * sizeof(Acc))));
};
template <typename Acc>
struct LanesOf<Acc, 1> {
  typedef Acc type;
};

template <typename V, typename Acc>
inline V load_lanes(const Acc* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// So many sums and the weights of a row of the kernel fill the 32 registers of AVX-512, or the 16 of the others.
constexpr int kStrip = kVectorBytes == 64 ? 16 : 8;

// L channels of P pixels of out; rows are read from `offset`.
template <typename Acc, int K, int L, int P, bool kAccumulate>
inline void depthwise_tile(const Acc* const* rows, int64_t offset, const Acc* weight, const Acc* bias, int64_t C,
                           Acc* out, int64_t out_stride) {
  typedef typename LanesOf<Acc, L>::type V;
  V sum[P];
  const V first = bias != nullptr ? load_lanes<V>(bias) : V{};
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) sum[p] = kAccumulate ? first + load_lanes<V>(out + p * out_stride) : first;
#pragma GCC unroll 1
  for (int ky = 0; ky < K; ++ky) {
    if (rows[ky] == nullptr) continue;
    const Acc* row = rows[ky] + offset;
    V w[K];
#pragma GCC unroll 16
    for (int kx = 0; kx < K; ++kx) w[kx] = load_lanes<V>(weight + (ky * K + kx) * C);
#pragma GCC unroll 32
    for (int j = 0; j < P + K - 1; ++j) {
      const V v = load_lanes<V>(row + j * C);
#pragma GCC unroll 32
      for (int p = 0; p < P; ++p)
        if (j - p >= 0 && j - p < K) sum[p] += v * w[j - p];
    }
  }
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) std::memcpy(out + p * out_stride, &sum[p], sizeof(V));
}

// All channels of P pixels.
template <typename Acc, int K, int P, bool kAccumulate, int L = kLanes<Acc>>
inline void depthwise_strip(const Acc* const* rows, int64_t offset, const Acc* weight, const Acc* bias, int64_t C,
                            int64_t c, Acc* out, int64_t out_stride) {
  for (; c + L <= C; c += L)
    depthwise_tile<Acc, K, L, P, kAccumulate>(rows, offset + c, weight + c, bias != nullptr ? bias + c : nullptr, C,
                                              out + c, out_stride);
  if constexpr (L > 1)
    if (c < C) depthwise_strip<Acc, K, P, kAccumulate, L / 2>(rows, offset, weight, bias, C, c, out, out_stride);
}

// From pixel x on, in strips of P pixels, then of a quarter of that.
template <typename Acc, int K, bool kAccumulate, int P = kStrip>
inline void depthwise_strips(const Acc* const* rows, const Acc* weight, const Acc* bias, int64_t x, int64_t width,
                             int64_t C, Acc* out, int64_t out_stride) {
  for (; x + P <= width; x += P)
    depthwise_strip<Acc, K, P, kAccumulate>(rows, x * C, weight, bias, C, 0, out + x * out_stride, out_stride);
  if constexpr (P > 1)
    if (x < width)
      depthwise_strips<Acc, K, kAccumulate, (P + 3) / 4>(rows, weight, bias, x, width, C, out, out_stride);
}

// The last argument is the distance of the output's pixels, where it is not C.
template <typename Acc, int K, bool kAccumulate>
void depthwise_row(const Acc* const* rows, const Acc* weight, const Acc* bias, int64_t width, int64_t C, Acc* out,
                   int64_t out_stride) {
  depthwise_strips<Acc, K, kAccumulate>(rows, weight, bias, 0, width, C, out, out_stride);
}

template <typename Acc, int K, bool kAccumulate>
void depthwise_row(const Acc* const* rows, const Acc* weight, const Acc* bias, int64_t width, int64_t C, Acc* out) {
  depthwise_row<Acc, K, kAccumulate>(rows, weight, bias, width, C, out, C);
}

// R rows of the kernel together, over a whole row: their K * R sums stay in registers. Strips of dout do too.
template <typename Acc, int K, int L, int R, int P>
inline void depthwise_weight_tile(const Acc* const* rows, const Acc* dout, int64_t width, int64_t C, Acc* dweight) {
  typedef typename LanesOf<Acc, L>::type V;
  V sum[R][K] = {};
  const auto strip = [&]<int Q>(int64_t x) {
    V d[Q];
#pragma GCC unroll 16
    for (int p = 0; p < Q; ++p) d[p] = load_lanes<V>(dout + (x + p) * C);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
      for (int j = 0; j < Q + K - 1; ++j) {
        const V v = load_lanes<V>(rows[r] + (x + j) * C);
#pragma GCC unroll 16
        for (int p = 0; p < Q; ++p)
          if (j - p >= 0 && j - p < K) sum[r][j - p] += v * d[p];
      }
  };
  int64_t x = 0;
  for (; x + P <= width; x += P) strip.template operator()<P>(x);
  for (; x < width; ++x) strip.template operator()<1>(x);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int kx = 0; kx < K; ++kx) {
      Acc* to = dweight + (r * K + kx) * C;
      const V v = load_lanes<V>(to) + sum[r][kx];
      std::memcpy(to, &v, sizeof v);
    }
}

template <typename Acc, int K, int R, int P, int L = kLanes<Acc>>
inline void depthwise_weight_rows(const Acc* const* rows, const Acc* dout, int64_t width, int64_t C, int64_t c,
                                  Acc* dweight) {
  const Acc* from[R];
  for (; c + L <= C; c += L) {
    for (int r = 0; r < R; ++r) from[r] = rows[r] + c;
    depthwise_weight_tile<Acc, K, L, R, P>(from, dout + c, width, C, dweight + c);
  }
  if constexpr (L > 1)
    if (c < C) depthwise_weight_rows<Acc, K, R, P, L / 2>(rows, dout, width, C, c, dweight);
}

template <typename Acc, int K>
void depthwise_weight_row(const Acc* const* rows, const Acc* dout, int64_t width, int64_t C, Acc* dweight) {
  constexpr int kTogether = K <= 3 ? K : 1, kPixels = kVectorBytes == 64 ? 8 : 4;
  if (std::find(rows, rows + K, nullptr) == rows + K) {
    for (int ky = 0; ky < K; ky += kTogether)
      depthwise_weight_rows<Acc, K, kTogether, kPixels>(rows + ky, dout, width, C, 0, dweight + ky * K * C);
    return;
  }
  for (int ky = 0; ky < K; ++ky)
    if (rows[ky] != nullptr)
      depthwise_weight_rows<Acc, K, 1, kPixels>(rows + ky, dout, width, C, 0, dweight + ky * K * C);
}

// Any odd size, known only when it runs: 3, 5 and 7 as above, others by plain loops.
template <typename Acc, bool kAccumulate>
void depthwise_row(int64_t K, const Acc* const* rows, const Acc* weight, const Acc* bias, int64_t width, int64_t C,
                   Acc* out, int64_t out_stride) {
  if (K == 3) return depthwise_row<Acc, 3, kAccumulate>(rows, weight, bias, width, C, out, out_stride);
  if (K == 5) return depthwise_row<Acc, 5, kAccumulate>(rows, weight, bias, width, C, out, out_stride);
  if (K == 7) return depthwise_row<Acc, 7, kAccumulate>(rows, weight, bias, width, C, out, out_stride);
  for (int64_t x = 0; x < width; ++x, out += out_stride) {
    for (int64_t c = 0; c < C; ++c) out[c] = (kAccumulate ? out[c] : Acc(0)) + (bias != nullptr ? bias[c] : Acc(0));
    for (int64_t tap = 0; tap < K * K; ++tap) {
      if (rows[tap / K] == nullptr) continue;
      const Acc *from = rows[tap / K] + (x + tap % K) * C, *w = weight + tap * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) out[c] += from[c] * w[c];
    }
  }
}

template <typename Acc>
void depthwise_weight_row(int64_t K, const Acc* const* rows, const Acc* dout, int64_t width, int64_t C, Acc* dweight) {
  if (K == 3) return depthwise_weight_row<Acc, 3>(rows, dout, width, C, dweight);
  if (K == 5) return depthwise_weight_row<Acc, 5>(rows, dout, width, C, dweight);
  if (K == 7) return depthwise_weight_row<Acc, 7>(rows, dout, width, C, dweight);
  for (int64_t tap = 0; tap < K * K; ++tap) {
    if (rows[tap / K] == nullptr) continue;
    const Acc* from = rows[tap / K] + tap % K * C;
    Acc* to = dweight + tap * C;
    for (int64_t x = 0; x < width; ++x)
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) to[c] += from[x * C + c] * dout[x * C + c];
  }
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
