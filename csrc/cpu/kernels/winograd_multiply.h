// Winograd's products at one position, M = V U, and the layout of U = G w G^T that they read. See winograd.h.
#pragma once

#include "cpu/kernels/winograd.h"
#include "cpu/winograd.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Tiles and vectors of outputs whose sums stay in registers, of which AVX-512 has 32 and the others 16.
constexpr int kTileRows = kLanes<float> == 16 ? 8 : 4, kTileVectors = 3;

// So many products are summed before they are added to the others: a running sum of 192 would lose twice as much.
constexpr int64_t kTileInputs = 48;

// kTileRows tiles, kWide vectors of outputs and kTail narrow ones, over `depth` inputs; kMore: added to what is there.
template <int kWide, int kTail, bool kMore>
inline void multiply_tile(const float* v, int64_t inputs, int64_t depth, const float* u, int64_t width, float* m,
                          int64_t tile_stride) {
  typedef Floats<kNarrow> Tail;
  constexpr int L = kLanes<float>;
  Vector<float> sum[kTileRows][kWide + 1] = {};
  Tail tail[kTileRows] = {};
  for (int64_t c = 0; c < depth; ++c, u += width) {
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
  for (int i = 0; i < kTileRows; ++i, m += tile_stride) {
#pragma GCC unroll 3
    for (int j = 0; j < kWide; ++j) store(m + j * L, kMore ? load(m + j * L) + sum[i][j] : sum[i][j]);
    if constexpr (kTail) {
      Tail before = {};
      if constexpr (kMore) std::memcpy(&before, m + kWide * L, sizeof before);
      if constexpr (kMore) tail[i] += before;
      std::memcpy(m + kWide * L, &tail[i], sizeof before);
    }
  }
}

// Whole groups of kTileRows tiles: rows of v and m beyond `tiles` are read and written.
template <int kWide, int kTail>
void multiply_columns(int64_t tiles, const float* v, int64_t inputs, const float* u, int64_t width, float* m,
                      int64_t tile_stride) {
  for (int64_t t = 0; t < tiles; t += kTileRows, v += kTileRows * inputs, m += kTileRows * tile_stride) {
    multiply_tile<kWide, kTail, false>(v, inputs, std::min(inputs, kTileInputs), u, width, m, tile_stride);
    for (int64_t c = kTileInputs; c < inputs; c += kTileInputs)
      multiply_tile<kWide, kTail, true>(v + c, inputs, std::min(inputs - c, kTileInputs), u + c * width, width, m,
                                        tile_stride);
  }
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
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i)
    if (!(i & kHalf)) {
      const Floats<kCount> a = x[i], b = x[i + kHalf];
      x[i] = exchanged<kHalf, false>(a, b);
      x[i + kHalf] = exchanged<kHalf, true>(a, b);
    }
  if constexpr (kHalf > 1) transpose<kCount, kHalf / 2>(x);
}

// U of kCount outputs from o on and as many inputs from c on, u[position * position_stride + input * width + output];
// vectors run along the outputs. Outputs that do not exist are zeros.
template <typename Points, int kTaps, int kCount>
void transform_weight_tile(const float* weight, int64_t outputs, int64_t inputs, int64_t o, int64_t c, int64_t width,
                           float* u, int64_t position_stride) {
  constexpr int S = Points::kSize;
  typedef Floats<kCount> V;
  V taps[kTaps][kTaps][kCount];  // [..][..][input]
  for (int t = 0; t < kTaps * kTaps; ++t) {
    V* square = taps[t / kTaps][t % kTaps];
#pragma GCC unroll 16
    for (int k = 0; k < kCount; ++k)
      if (o + k < outputs)
        std::memcpy(&square[k], weight + ((o + k) * kTaps * kTaps + t) * inputs + c, sizeof(V));
      else
        square[k] = V{};
    transpose<kCount>(square);
  }
  for (int k = 0; k < kCount; ++k, u += width) {
    V half[S][kTaps], row[kTaps], points[S];  // [point along x][row of the kernel]
    for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 7
      for (int s = 0; s < kTaps; ++s) row[s] = taps[t][s][k];
      Points::template weight<kTaps>(row, points);
#pragma GCC unroll 8
      for (int j = 0; j < S; ++j) half[j][t] = points[j];
    }
    for (int j = 0; j < S; ++j) {
      Points::template weight<kTaps>(half[j], points);
#pragma GCC unroll 8
      for (int i = 0; i < S; ++i) std::memcpy(u + (i * S + j) * position_stride, &points[i], sizeof(V));
    }
  }
}

// U of the block of outputs that begins with o. weight [outputs][kTaps][kTaps][inputs]; inputs >= kNarrow. Some inputs
// at a time are made in a local copy, whose runs are then written in order: positions are whole pages apart.
template <typename Points, int kTaps>
void transform_weight(const float* weight, int64_t outputs, int64_t inputs, int64_t o, float* u) {
  constexpr int64_t L = kLanes<float>, kPositions = Points::kSize * Points::kSize;
  const int64_t width = std::min(kWinogradOutputs, winograd_padded(outputs) - o), count = inputs < L ? kNarrow : L;
  const int64_t position_stride = count * width + L;
  std::vector<float> local(kPositions * position_stride);
  for (int64_t at = 0; at < inputs; at += count) {
    const int64_t c = std::min(at, inputs - count);
    for (int64_t i = 0; i < width;) {
      if (count == L && width - i >= L) {
        transform_weight_tile<Points, kTaps, L>(weight, outputs, inputs, o + i, c, width, &local[i], position_stride);
        i += L;
      } else {
        for (int64_t k = 0; k < count; k += kNarrow)
          transform_weight_tile<Points, kTaps, kNarrow>(weight, outputs, inputs, o + i, c + k, width,
                                                        &local[k * width + i], position_stride);
        i += kNarrow;
      }
    }
    for (int64_t p = 0; p < kPositions; ++p)
      std::memcpy(u + o * kPositions * inputs + (p * inputs + c) * width, &local[p * position_stride],
                  count * width * sizeof(float));
  }
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
