// What norm_act_conv_tiles.cpp does on both sides of its products: rows of tiles from maps and back.
#pragma once

#include <algorithm>

#include "cpu/norm_act_conv.h"
#include "gemm.h"
#include "norm_act_conv_algebra.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// The padded activation, with channels rounded up to whole vectors and rows and columns up to whole tiles.
template <typename T>
struct Strip {
  const NormAct& a;
  const NormActConvShape& s = a.shape;
  const int64_t C = s.channels, pitch = tile_padded(C), columns = s.strip_columns();
  const Scratch<T> scale = rounded_up(a.scale), shift = rounded_up(a.shift);

  Scratch<T> rounded_up(const void* from) const {
    Scratch<T> to = scratch<T>(pitch);
    std::fill_n(to.get(), pitch, T(0));
    std::copy_n(static_cast<const T*>(from), C, to.get());
    return to;
  }

  void row(int64_t image, int64_t padded_row, T* to) const {
    const int64_t y = padded_row < a.rows->size() ? a.rows->source[padded_row] : -1;
    const T* from = static_cast<const T*>(a.x) + (image * s.height + std::max<int64_t>(y, 0)) * s.width * C;
    const Vector<T> zero = {};
    const T slope = static_cast<T>(a.slope);
    for (int64_t i = 0; i < columns; ++i, to += pitch) {
      const int64_t x = y >= 0 && i < a.columns->size() ? a.columns->source[i] : -1;
      for (int64_t c = 0; c < C; c += kLanes<T>) {
        Vector<T> v = zero;
        if (x >= 0) {
          v = load_some(from + x * C + c, C - c) * load(scale.get() + c) + load(shift.get() + c);
          v = v > zero ? v : v * slope;
        }
        store(to + c, v);
      }
    }
  }
};

// A row of tiles: strip [parts][columns][pitch] -> parts * parts planes of [tile][pitch], `plane` apart.
template <typename A, typename T>
void transform_inputs(const NormActConvShape& s, const T* strip, T* to, int64_t plane) {
  constexpr int N = A::kParts;
  const int64_t pitch = tile_padded(s.channels), row = s.strip_columns() * pitch;
  for (int64_t tile = 0; tile < s.tile_columns(); ++tile)
    for (int64_t c = 0; c < s.channels; c += kLanes<T>) {
      const T* from = strip + tile * A::kStep * pitch + c;
      Vector<T> half[N][N];  // [column][part]
#pragma GCC unroll 4
      for (int x = 0; x < N; ++x) {
        Vector<T> d[N];
#pragma GCC unroll 4
        for (int y = 0; y < N; ++y) d[y] = load(from + y * row + x * pitch);
        A::in(d, half[x]);
      }
#pragma GCC unroll 4
      for (int y = 0; y < N; ++y) {
        Vector<T> d[N], m[N];
#pragma GCC unroll 4
        for (int x = 0; x < N; ++x) d[x] = half[x][y];
        A::in(d, m);
#pragma GCC unroll 4
        for (int x = 0; x < N; ++x) store(to + (y * N + x) * plane + tile * pitch + c, m[x]);
      }
    }
}

// A row of tiles: planes of products [tile][pitch] -> kSize rows of y, or fewer at an odd end.
template <typename A, typename T>
void transform_outputs(const NormActConvShape& s, const T* from, int64_t plane, int64_t rows, T* y) {
  constexpr int N = A::kParts, O = A::kSize;
  const int64_t K = s.outputs, pitch = tile_padded(K);
  for (int64_t tile = 0; tile < s.tile_columns(); ++tile) {
    const int64_t columns = std::min<int64_t>(O, s.out_width - O * tile);
    for (int64_t k = 0; k < K; k += kLanes<T>) {
      Vector<T> half[N][O];
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        Vector<T> m[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) m[j] = load(from + (i * N + j) * plane + tile * pitch + k);
        A::out(m, half[i]);
      }
#pragma GCC unroll 2
      for (int x = 0; x < O; ++x) {
        Vector<T> m[N], out[O];
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i) m[i] = half[i][x];
        A::out(m, out);
        for (int i = 0; i < rows && x < columns; ++i)
          store_some(y + (i * s.out_width + O * tile + x) * K + k, out[i], K - k);
      }
    }
  }
}

// One row of tiles of the output's gradient into planes of [tile][pitch].
template <typename A, typename T>
void transform_gradients(const TileBackward& a, int64_t image, int64_t tile_row, T* to, int64_t plane) {
  constexpr int N = A::kParts, O = A::kSize;
  const NormActConvShape& s = a.in.shape;
  const int64_t K = s.outputs, pitch = tile_padded(K);
  const int64_t rows = std::min<int64_t>(O, s.out_height - O * tile_row);
  const int64_t start = (image * s.out_height + O * tile_row) * s.out_width * K;
  const T *dy = static_cast<const T*>(a.out.dy) + start, *y = static_cast<const T*>(a.out.y) + start;
  const T *mean = static_cast<const T*>(a.out.mean), *dmean = static_cast<const T*>(a.out.dmean);
  const T* dvar = static_cast<const T*>(a.out.dvar);
  for (int64_t tile = 0; tile < s.tile_columns(); ++tile) {
    const int64_t columns = std::min<int64_t>(O, s.out_width - O * tile);
    for (int64_t k = 0; k < K; k += kLanes<T>) {
      Vector<T> half[O][N];
      Vector<T> m = {}, dm = {}, dv = {};
      if (a.out.y != nullptr) {
        m = load_some(mean + k, K - k);
        dm = load_some(dmean + k, K - k);
        dv = load_some(dvar + k, K - k);
      }
#pragma GCC unroll 2
      for (int x = 0; x < O; ++x) {
        Vector<T> d[O] = {};
        for (int i = 0; i < rows && x < columns; ++i) {
          const int64_t at = (i * s.out_width + O * tile + x) * K + k;
          d[i] = load_some(dy + at, K - k);
          if (a.out.y != nullptr) d[i] += dm + dv * (load_some(y + at, K - k) - m);
        }
        A::out_adjoint(d, half[x]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        Vector<T> d[O], out[N];
        for (int x = 0; x < O; ++x) d[x] = half[x][i];
        A::out_adjoint(d, out);
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) store(to + (i * N + j) * plane + tile * pitch + k, out[j]);
      }
    }
  }
}

// Band i of an image is the padded rows [kStep * i, kStep * (i + 1)); kReach rows of tiles overlap there. Tiles of
// one band overlap along the row too: what reaches into the next tile's columns is carried to it.
template <typename A, typename T>
struct Bands {
  static constexpr int N = A::kParts, S = A::kStep, kReach = (N + S - 1) / S, kCarried = N - S;
  const TileBackward& a;
  const NormActConvShape& s = a.in.shape;
  const int64_t C = s.channels, pitch = tile_padded(C), across = s.tile_columns();
  const int64_t tiles = (a.last_row - a.first_row) * across;

  void emit(T* row, int64_t column, const Vector<T>& v, int64_t c, bool add) const {
    if (column >= a.in.columns->size()) return;
    T* to = row + column * C + c;
    store_some(to, add ? v + load_some(to, C - c) : v, C - c);
  }

  // tile: the first of the band's row of tiles in `inputs`; reaches [from, to) of the rows above are in this range.
  void run(int64_t image, int64_t band, int64_t tile, int from, int to, bool add) const {
    const int64_t rows = std::min<int64_t>(S, a.in.rows->size() - band * S), row = a.in.columns->size() * C;
    if (rows <= 0) return;
    T* out = static_cast<T*>(a.dpadded) + (image * a.in.rows->size() + band * S) * row;
    const T* inputs = static_cast<const T*>(a.inputs);
    for (int64_t c = 0; c < C; c += kLanes<T>) {
      Vector<T> carry[S][kCarried] = {};
      for (int64_t x = 0; x < across; ++x) {
        Vector<T> sum[S][N] = {};
#pragma GCC unroll 4
        for (int reach = 0; reach < kReach; ++reach) {
          if (reach < from || reach >= to) continue;
          const T* part = inputs + (tile - reach * across + x) * pitch + c;
#pragma GCC unroll 4
          for (int j = 0; j < N; ++j) {
            Vector<T> m[N], d[N];
#pragma GCC unroll 4
            for (int i = 0; i < N; ++i) m[i] = load(part + (i * N + j) * tiles * pitch);
            A::in_adjoint(m, d);
#pragma GCC unroll 2
            for (int r = 0; r < S; ++r)
              if (S * reach + r < N) sum[r][j] += d[S * reach + r];
          }
        }
#pragma GCC unroll 2
        for (int r = 0; r < S; ++r) {
          Vector<T> d[N];
          A::in_adjoint(sum[r], d);
#pragma GCC unroll 4
          for (int i = 0; i < kCarried; ++i) d[i] += carry[r][i];
          if (r < rows)
            for (int i = 0; i < S; ++i) emit(out + r * row, x * S + i, d[i], c, add);
#pragma GCC unroll 4
          for (int i = 0; i < kCarried; ++i) carry[r][i] = d[i + S];
        }
      }
      for (int r = 0; r < rows; ++r)
        // Beyond what a tile reaches there is at most a column of zeros.
        for (int i = 0; i <= kCarried; ++i)
          emit(out + r * row, across * S + i, i < kCarried ? carry[r][i] : Vector<T>{}, c, add);
    }
  }
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
