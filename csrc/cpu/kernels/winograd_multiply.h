// Winograd's products at one position, M = V U, and the layout of U = G w G^T that they read. See winograd.h.
#pragma once

#include "cpu/kernels/winograd.h"
#include "cpu/winograd.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Tiles and vectors of outputs whose sums stay in registers, of which AVX-512 has 32 and the others 16.
constexpr int kTileRows = kLanes<float> == 16 ? 8 : 4, kTileVectors = 3;

// kTileRows tiles, kWide vectors of outputs and kTail narrow ones.
template <int kWide, int kTail>
void multiply_tile(const float* v, int64_t inputs, const float* u, int64_t width, float* m, int64_t tile_stride) {
  typedef Floats<kNarrow> Tail;
  constexpr int L = kLanes<float>;
  Vector<float> sum[kTileRows][kWide + 1] = {};
  Tail tail[kTileRows] = {};
  for (int64_t c = 0; c < inputs; ++c, u += width) {
    Vector<float> wide[kWide + 1];
    Tail narrow = {};
#pragma GCC unroll 3
    for (int j = 0; j < kWide; ++j) wide[j] = load(u + j * L);
    if constexpr (kTail) std::memcpy(&narrow, u + kWide * L, sizeof narrow);
#pragma GCC unroll 8
    for (int i = 0; i < kTileRows; ++i) {
      const float x = v[i * inputs + c];
#pragma GCC unroll 3
      for (int j = 0; j < kWide; ++j) sum[i][j] += x * wide[j];
      if constexpr (kTail) tail[i] += x * narrow;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kWide; ++j) store(m + i * tile_stride + j * L, sum[i][j]);
    if constexpr (kTail) std::memcpy(m + i * tile_stride + kWide * L, &tail[i], sizeof tail[i]);
  }
}

// Whole groups of kTileRows tiles: rows of v and m beyond `tiles` are read and written.
template <int kWide, int kTail>
void multiply_columns(int64_t tiles, const float* v, int64_t inputs, const float* u, int64_t width, float* m,
                      int64_t tile_stride) {
  for (int64_t t = 0; t < tiles; t += kTileRows)
    multiply_tile<kWide, kTail>(v + t * inputs, inputs, u, width, m + t * tile_stride, tile_stride);
}

// m[tile * tile_stride + o] = sum over c of v[tile * inputs + c] * u[c * width + o]; width: a multiple of 8.
inline void multiply(int64_t tiles, const float* v, int64_t inputs, const float* u, int64_t width, float* m,
                     int64_t tile_stride) {
  constexpr int64_t L = kLanes<float>;
  for (int64_t left = width; left > 0;) {
    const int64_t at = width - left, vectors = std::min<int64_t>(kTileVectors, left / L);
    const bool tail = vectors < kTileVectors && left - vectors * L > 0 && kNarrow < L;
    const auto columns = tail ? (vectors == 2   ? multiply_columns<2, 1>
                                 : vectors == 1 ? multiply_columns<1, 1>
                                                : multiply_columns<0, 1>)
                              : (vectors == 3   ? multiply_columns<3, 0>
                                 : vectors == 2 ? multiply_columns<2, 0>
                                                : multiply_columns<1, 0>);
    columns(tiles, v, inputs, u + at, width, m + at, tile_stride);
    left -= vectors * L + (tail ? kNarrow : 0);
  }
}

// Rows become columns: lane j of in[i] goes to lane i of in[j].
template <int kCount, int kHalf = kCount / 2>
inline void transpose(Floats<kCount>* x) {
  typedef decltype(Floats<kCount>{} < Floats<kCount>{}) Index;
  Index low, high;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    low[i] = i & kHalf ? (i ^ kHalf) + kCount : i;
    high[i] = i & kHalf ? i + kCount : i ^ kHalf;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i)
    if (!(i & kHalf)) {
      const Floats<kCount> a = x[i], b = x[i + kHalf];
      x[i] = __builtin_shuffle(a, b, low);
      x[i + kHalf] = __builtin_shuffle(a, b, high);
    }
  if constexpr (kHalf > 1) transpose<kCount, kHalf / 2>(x);
}

// U of the outputs [first, last), multiples of kNarrow (the last one excepted): outputs that do not exist are zeros.
// weight [outputs][kTaps][kTaps][inputs]; inputs >= kNarrow.
template <typename Points, int kTaps>
void transform_weight(const float* weight, int64_t outputs, int64_t inputs, int64_t first, int64_t last, float* u) {
  constexpr int S = Points::kSize, N = kNarrow;
  typedef Floats<N> V;
  V all[S * S][N];
  for (int64_t o = first; o < last; o += N) {
    const int64_t block = o / kWinogradOutputs * kWinogradOutputs;
    const int64_t width = std::min(kWinogradOutputs, winograd_padded(outputs) - block);
    float* to = u + block * S * S * inputs + (o - block);
    for (int64_t at = 0; at < inputs; at += N) {
      const int64_t c = std::min(at, inputs - N);
      for (int k = 0; k < N; ++k) {
        V half[kTaps][S];  // [row of the kernel][point along x]
        for (int t = 0; t < kTaps; ++t) {
          V taps[kTaps] = {};
          for (int s = 0; s < kTaps && o + k < outputs; ++s)
            std::memcpy(&taps[s], weight + (((o + k) * kTaps + t) * kTaps + s) * inputs + c, sizeof(V));
          Points::template weight<kTaps>(taps, half[t]);
        }
        for (int j = 0; j < S; ++j) {
          V taps[kTaps], points[S];
          for (int t = 0; t < kTaps; ++t) taps[t] = half[t][j];
          Points::template weight<kTaps>(taps, points);
          for (int i = 0; i < S; ++i) all[i * S + j][k] = points[i];
        }
      }
      for (int p = 0; p < S * S; ++p) {
        transpose<N>(all[p]);
        for (int k = 0; k < N; ++k)
          std::memcpy(to + (p * inputs + c + k) * width, &all[p][k], sizeof(V));
      }
    }
  }
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
