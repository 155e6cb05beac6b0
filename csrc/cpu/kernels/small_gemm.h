// out[i][n] (+)= sum over parts p and depth j of a[p][i * row + j * step] * b[p * depth + j][n]: the 1x1 convolutions
// on rows that are still in cache (step 1), and with row 1 the transposed product of their weight's gradient.
// A tile of out stays in registers: kTileRows rows of up to three vectors, the last of which may be a half (24 channels
// are one and a half); elements of a are broadcast. n is a multiple of 8. For csrc/cpu/kernels only.
#pragma once

#include "vectors.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Eight rows of three vectors leave AVX-512's 32 registers room for b's three; the others have 16.
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif

template <typename Acc>
struct Gemm {
  const Acc* const* a;  // one pointer a part
  int64_t parts, row, step;
  int64_t depth;  // of one part
  const Acc* b;
  int64_t b_row;
  Acc* out;
  int64_t out_row;
  bool accumulate;
};

// Half a vector, where n may end in one.
template <typename Acc>
struct HalfOf {
  static constexpr bool used = kLanes<Acc> > 8;
  static constexpr int bytes = used ? kVectorBytes / 2 : kVectorBytes;
  typedef Acc type __attribute__((vector_size(bytes)));
};

template <typename V, typename Acc>
inline V vector_at(const Acc* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// kRows rows of kVectors vectors and, if kHalf, half a vector.
template <typename Acc, int kRows, int kVectors, bool kHalf>
inline void gemm_tile(const Gemm<Acc>& g, int64_t i, int64_t n) {
  typedef Vector<Acc> V;
  typedef typename HalfOf<Acc>::type H;
  constexpr int kWidth = kLanes<Acc>;
  Acc* out = g.out + i * g.out_row + n;
  V sum[kRows][kVectors > 0 ? kVectors : 1] = {};
  H half[kRows] = {};
  if (g.accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = vector_at<V>(out + r * g.out_row + v * kWidth);
      if (kHalf) half[r] = vector_at<H>(out + r * g.out_row + kVectors * kWidth);
    }
  }
  const Acc* b = g.b + n;
  const int64_t row = g.row, step = g.step;
  for (int64_t p = 0; p < g.parts; ++p) {
    const Acc* a = g.a[p] + i * row;
    for (int64_t j = 0; j < g.depth; ++j, a += step, b += g.b_row) {
      V in[kVectors > 0 ? kVectors : 1];
      H last = {};
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) in[v] = vector_at<V>(b + v * kWidth);
      if (kHalf) last = vector_at<H>(b + kVectors * kWidth);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const V left = V{} + a[r * row];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] += left * in[v];
        if constexpr (kHalf) half[r] += __builtin_shufflevector(left, left, 0, 1, 2, 3, 4, 5, 6, 7) * last;
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) std::memcpy(out + r * g.out_row + v * kWidth, &sum[r][v], sizeof(V));
    if (kHalf) std::memcpy(out + r * g.out_row + kVectors * kWidth, &half[r], sizeof(H));
  }
}

template <typename Acc, int kVectors, bool kHalf>
inline void gemm_columns(const Gemm<Acc>& g, int64_t m, int64_t n) {
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) gemm_tile<Acc, kTileRows, kVectors, kHalf>(g, i, n);
  if constexpr (kTileRows > 4)
    for (; i + 4 <= m; i += 4) gemm_tile<Acc, 4, kVectors, kHalf>(g, i, n);
  for (; i < m; ++i) gemm_tile<Acc, 1, kVectors, kHalf>(g, i, n);
}

// out [m][n].
template <typename Acc>
void gemm(const Gemm<Acc>& g, int64_t m, int64_t n) {
  constexpr int kWidth = kLanes<Acc>;
  int64_t at = 0;
  for (; at + 3 * kWidth <= n; at += 3 * kWidth) gemm_columns<Acc, 3, false>(g, m, at);
  const int64_t vectors = (n - at) / kWidth;
  if constexpr (HalfOf<Acc>::used)
    if ((n - at) % kWidth != 0)
      return vectors == 2   ? gemm_columns<Acc, 2, true>(g, m, at)
             : vectors == 1 ? gemm_columns<Acc, 1, true>(g, m, at)
                            : gemm_columns<Acc, 0, true>(g, m, at);
  if (vectors == 2) gemm_columns<Acc, 2, false>(g, m, at);
  if (vectors == 1) gemm_columns<Acc, 1, false>(g, m, at);
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
