// out[i][n] (+)= sum over parts p and depth j of a[p][i * row + j * step] * b[p * depth + j][n]: the 1x1 convolutions on
// rows that are still in cache (step 1), and with row 1 the transposed product of their weight's gradient.
// A tile of out stays in registers: kTileRows rows of up to three vectors; elements of a are broadcast. n is a multiple
// of 8. For csrc/cpu/kernels only.
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

template <typename V, int kRows, int kVectors, typename Acc>
inline void gemm_tile(const Gemm<Acc>& g, int64_t i, int64_t n) {
  constexpr int kWidth = sizeof(V) / sizeof(Acc);
  Acc* out = g.out + i * g.out_row + n;
  V sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = V{};
      if (g.accumulate) std::memcpy(&sum[r][v], out + r * g.out_row + v * kWidth, sizeof(V));
    }
  }
  const Acc* b = g.b + n;
  const int64_t row = g.row, step = g.step;
  for (int64_t p = 0; p < g.parts; ++p) {
    const Acc* a = g.a[p] + i * row;
    for (int64_t j = 0; j < g.depth; ++j, a += step, b += g.b_row) {
      V in[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) std::memcpy(&in[v], b + v * kWidth, sizeof(V));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const V left = V{} + a[r * row];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] += left * in[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) std::memcpy(out + r * g.out_row + v * kWidth, &sum[r][v], sizeof(V));
  }
}

template <typename V, int kVectors, typename Acc>
inline void gemm_columns(const Gemm<Acc>& g, int64_t m, int64_t n) {
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) gemm_tile<V, kTileRows, kVectors>(g, i, n);
  for (; i + 4 <= m; i += 4) gemm_tile<V, 4, kVectors>(g, i, n);
  for (; i < m; ++i) gemm_tile<V, 1, kVectors>(g, i, n);
}

// out [m][n].
template <typename Acc>
void gemm(const Gemm<Acc>& g, int64_t m, int64_t n) {
  typedef Acc Half __attribute__((vector_size(kVectorBytes > 32 && sizeof(Acc) == 4 ? 32 : kVectorBytes)));
  int64_t at = 0;
  for (; at + 3 * kLanes<Acc> <= n; at += 3 * kLanes<Acc>) gemm_columns<Vector<Acc>, 3>(g, m, at);
  for (; at + kLanes<Acc> <= n; at += kLanes<Acc>) gemm_columns<Vector<Acc>, 1>(g, m, at);
  if (at < n) gemm_columns<Half, 1>(g, m, at);
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
