// The matrix products of channel_attention, on planes: a row is one channel, vectors run along its pixels. So no number
// of channels leaves lanes idle (24 channels are one and a half vectors). Sums of a tile stay in registers.
#pragma once

#include <algorithm>
#include <utility>

#include "vectors.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

#if defined(__AVX512F__)
constexpr int kTileVectors = 4, kDotRows = 4, kDotColumns = 6;
#else
constexpr int kTileVectors = 2, kDotRows = 2, kDotColumns = 4;  // 16 registers, not 32
#endif
constexpr int kTileRows = 6;
// Dot products go along this many vectors at a time, so that the rows stay in the first cache.
constexpr int64_t kDotVectors = 32;

template <typename T, int N>
struct Wide {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};

template <typename T, int N, int... I>
inline T fold(const typename Wide<T, N>::type& v, std::integer_sequence<int, I...>) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else {
    const typename Wide<T, N / 2>::type half =
        __builtin_shufflevector(v, v, I...) + __builtin_shufflevector(v, v, (I + N / 2)...);
    return fold<T, N / 2>(half, std::make_integer_sequence<int, N / 4>());
  }
}

// Sum of the lanes, by halves.
template <typename T>
inline T folded(const Vector<T>& v) {
  return fold<T, kLanes<T>>(v, std::make_integer_sequence<int, kLanes<T> / 2>());
}

// A matrix that is read element by element.
template <typename Acc>
struct Matrix {
  const Acc* data;
  int64_t row, column;  // strides
};

// Channels of whole image rows: vector number f of channel c is at data + c * channel + f / vectors * pitch + ...
template <typename Acc>
struct Planes {
  Acc* data;
  int64_t channel, vectors, pitch;
  int64_t at(int64_t f) const { return f / vectors * pitch + f % vectors * kLanes<Acc>; }
};

// What is added to a product: scale[row] * data[row].
template <typename Acc>
struct Scaled {
  const Acc* scale;
  const Acc* data;
  int64_t channel;
};

template <typename Acc, int kRows, int kVectors>
inline void multiply_tile(int64_t depth, const Matrix<Acc>& a, const Acc* x, int64_t channel, Acc* out,
                          int64_t out_channel, const int64_t* at, const Scaled<Acc>* added) {
  Vector<Acc> sum[kRows][kVectors] = {};
  const Acc* from = a.data;
  for (int64_t k = 0; k < depth; ++k, from += a.column, x += channel) {
    Vector<Acc> v[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) v[j] = load(x + j * kLanes<Acc>);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sum[r][j] += from[r * a.row] * v[j];
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      if (added != nullptr)
        sum[r][j] += added->scale[r] * load(added->data + r * added->channel + j * kLanes<Acc>);
      store(out + r * out_channel + at[j], sum[r][j]);
    }
}

template <typename Acc, int kVectors>
void multiply_column(int64_t rows, int64_t depth, Matrix<Acc> a, const Acc* x, int64_t channel, Acc* out,
                     int64_t out_channel, const int64_t* at, const Scaled<Acc>* added) {
  Scaled<Acc> here = added != nullptr ? *added : Scaled<Acc>{};
  const auto tile = [&]<int kRows>(std::integral_constant<int, kRows>) {
    multiply_tile<Acc, kRows, kVectors>(depth, a, x, channel, out, out_channel, at, added != nullptr ? &here : nullptr);
    a.data += kRows * a.row;
    out += kRows * out_channel;
    here.scale += kRows;
    here.data += kRows * here.channel;
    rows -= kRows;
  };
  while (rows >= kTileRows) tile(std::integral_constant<int, kTileRows>());
  while (rows >= 2) tile(std::integral_constant<int, 2>());
  while (rows >= 1) tile(std::integral_constant<int, 1>());
}

// out [rows][vectors] = a [rows][depth] x [depth][vectors], plus added. x: dense, `channel` from row to row.
template <typename Acc>
void multiply(int64_t rows, int64_t depth, const Matrix<Acc>& a, const Acc* x, int64_t channel, int64_t vectors,
              const Planes<Acc>& out, const Scaled<Acc>* added = nullptr) {
  for (int64_t f = 0; f < vectors;) {
    const int64_t left = vectors - f;
    int64_t at[kTileVectors];
    for (int j = 0; j < kTileVectors; ++j) at[j] = out.at(std::min(f + j, vectors - 1));
    Scaled<Acc> here = {};
    if (added != nullptr) here = {added->scale, added->data + f * kLanes<Acc>, added->channel};
    const auto column = [&]<int kVectors>(std::integral_constant<int, kVectors>) {
      multiply_column<Acc, kVectors>(rows, depth, a, x + f * kLanes<Acc>, channel, out.data, out.channel, at,
                                     added != nullptr ? &here : nullptr);
      f += kVectors;
    };
    if (left >= kTileVectors)
      column(std::integral_constant<int, kTileVectors>());
    else if (left >= 2)
      column(std::integral_constant<int, 2>());
    else
      column(std::integral_constant<int, 1>());
  }
}

template <typename Acc, int kRows, int kColumns>
inline void dot_tile(const Acc* x, int64_t x_channel, const Acc* y, int64_t y_channel, int64_t vectors, Acc* out,
                     int64_t out_row) {
  Vector<Acc> sum[kRows][kColumns] = {};
  for (int64_t f = 0; f < vectors; ++f, x += kLanes<Acc>, y += kLanes<Acc>) {
    Vector<Acc> v[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) v[r] = load(x + r * x_channel);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const Vector<Acc> w = load(y + c * y_channel);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[r][c] += v[r] * w;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) out[r * out_row + c] += folded<Acc>(sum[r][c]);
}

template <typename Acc, int kRows>
void dot_rows(int64_t columns, const Acc* x, int64_t x_channel, const Acc* y, int64_t y_channel, int64_t vectors,
              Acc* out, int64_t out_row) {
  int64_t c = 0;
  for (; c + kDotColumns <= columns; c += kDotColumns)
    dot_tile<Acc, kRows, kDotColumns>(x, x_channel, y + c * y_channel, y_channel, vectors, out + c, out_row);
  for (; c < columns; ++c)
    dot_tile<Acc, kRows, 1>(x, x_channel, y + c * y_channel, y_channel, vectors, out + c, out_row);
}

// out [rows][columns] += x [rows][vectors] y [columns][vectors]^T
template <typename Acc>
void add_dots(int64_t rows, int64_t columns, const Acc* x, int64_t x_channel, const Acc* y, int64_t y_channel,
              int64_t vectors, Acc* out, int64_t out_row) {
  for (int64_t f = 0; f < vectors; f += kDotVectors) {
    const int64_t count = std::min(kDotVectors, vectors - f);
    const Acc *from = x + f * kLanes<Acc>, *with = y + f * kLanes<Acc>;
    int64_t r = 0;
    for (; r + kDotRows <= rows; r += kDotRows)
      dot_rows<Acc, kDotRows>(columns, from + r * x_channel, x_channel, with, y_channel, count, out + r * out_row,
                              out_row);
    for (; r < rows; ++r)
      dot_rows<Acc, 1>(columns, from + r * x_channel, x_channel, with, y_channel, count, out + r * out_row, out_row);
  }
}

// out[row] += sum of squares
template <typename Acc>
void add_squares(int64_t rows, const Acc* x, int64_t channel, int64_t vectors, Acc* out) {
  for (int64_t r = 0; r < rows; ++r, x += channel) {
    Vector<Acc> sum[4] = {};
    int64_t f = 0;
    for (; f + 4 <= vectors; f += 4)
      for (int i = 0; i < 4; ++i) {
        const Vector<Acc> v = load(x + (f + i) * kLanes<Acc>);
        sum[i] += v * v;
      }
    for (; f < vectors; ++f) {
      const Vector<Acc> v = load(x + f * kLanes<Acc>);
      sum[0] += v * v;
    }
    out[r] += folded<Acc>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
