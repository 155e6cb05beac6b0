// Winograd's convolutions F(m x m, r x r), float32, channels innermost: for each tile of m x m outputs
//   y = A^T ( sum over inputs of (G w G^T) . (B^T x B) ) A
// in three steps that a caller runs over a block of tiles small enough to stay in cache between them:
// transform_strip (x to V), multiply of winograd_multiply.h at every position (V to M), transform_output (M to y).
//   V [positions][tiles][inputs]   M [positions][tiles][outputs of a block]
//   U [blocks of outputs][positions][inputs][outputs of the block]
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/kernels/vectors.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Channels that fill no Vector are taken by vectors of kNarrow.
constexpr int kNarrow = kLanes<float> < 8 ? kLanes<float> : 8;

template <int kCount>
struct FloatsOf {
  typedef float type __attribute__((vector_size(kCount * sizeof(float))));
};
template <int kCount>
using Floats = typename FloatsOf<kCount>::type;

// Of lanes in runs of kHalf: a's even runs (kHigh: its odd runs), each followed by b's at the same place.
template <int kHalf, bool kHigh, typename V, std::size_t... kLane>
inline V exchanged(const V& a, const V& b, std::index_sequence<kLane...>) {
  constexpr auto from = [](int i) {
    return i & kHalf ? (kHigh ? i : i ^ kHalf) + static_cast<int>(sizeof...(kLane)) : kHigh ? i ^ kHalf : i;
  };
#if defined(__clang__)
  return __builtin_shufflevector(a, b, from(kLane)...);
#else
  typedef decltype(a < b) Index;
  return __builtin_shuffle(a, b, Index{from(kLane)...});
#endif
}

template <int kHalf, bool kHigh, typename V>
inline V exchanged(const V& a, const V& b) {
  return exchanged<kHalf, kHigh>(a, b, std::make_index_sequence<sizeof(V) / sizeof(float)>());
}

// Eight points (0, +-1, +-2, +-1/2 and infinity), which F(2, 7), F(4, 5) and F(6, 3) share, and so B. Scaling a point
// in B by a power of two and back in G would change no rounding, and other points lose more in float32.
struct EightPoints {
  static constexpr int kSize = 8;

  template <typename V>
  static inline void input(const V* x, V* y) {
    const V e1 = x[2] + x[6] - 4.25f * x[4], o1 = x[1] + x[5] - 4.25f * x[3];
    const V e2 = x[6] + .25f * x[2] - 1.25f * x[4], o2 = .5f * x[1] - 2.5f * x[3] + 2.f * x[5];
    const V e3 = x[6] + 4.f * x[2] - 5.f * x[4], o3 = 2.f * x[1] - 2.5f * x[3] + .5f * x[5];
    y[0] = x[0] - x[6] + 5.25f * (x[4] - x[2]);
    y[1] = e1 + o1, y[2] = e1 - o1;
    y[3] = e2 + o2, y[4] = e2 - o2;
    y[5] = e3 + o3, y[6] = e3 - o3;
    y[7] = x[7] - x[1] + 5.25f * (x[3] - x[5]);
  }

  template <int kOutputs, typename V>
  static inline void output(const V* x, V* y) {
    const V s1 = x[1] + x[2], s2 = x[3] + x[4], s3 = x[5] + x[6];
    const V d1 = x[1] - x[2], d2 = x[3] - x[4], d3 = x[5] - x[6];
    float two = 1;  // to the power of i
    y[0] = x[0] + s1 + s2 + s3;
#pragma GCC unroll 6
    for (int i = 1; i < kOutputs; ++i) {
      two *= 2;
      y[i] = i % 2 ? d1 + two * d2 + (1 / two) * d3 : s1 + two * s2 + (1 / two) * s3;
    }
    y[kOutputs - 1] += x[7];
  }

  template <int kTaps, typename V>
  static inline void weight(const V* x, V* y) {
    constexpr float kPoint[] = {1.f, 2.f, .5f}, kScale[] = {-2.f / 9, 1.f / 90, 32.f / 45};
    y[0] = x[0];
    y[7] = x[kTaps - 1];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      V even = {}, odd = {};
#pragma GCC unroll 7
      for (int t = kTaps - 1; t >= 0; --t) (t % 2 ? odd : even) = (t % 2 ? odd : even) * (kPoint[i] * kPoint[i]) + x[t];
      odd *= kPoint[i];
      y[2 * i + 1] = (even + odd) * kScale[i];
      y[2 * i + 2] = (even - odd) * kScale[i];
    }
  }
};

// The image [height][width][channels] between zeros. A loader says where a row or column of the padded image is taken
// from (-1: nowhere, zeros) and may change what it reads: an affine map or an activation costs no pass of its own.
struct ZeroPadded {
  const float* image;
  int64_t height, width, channels;

  int64_t row(int64_t y) const { return y >= 0 && y < height ? y : -1; }
  int64_t column(int64_t x) const { return x >= 0 && x < width ? x : -1; }
  template <typename V>
  V value(int64_t y, int64_t x, int64_t c) const {
    V v;
    std::memcpy(&v, image + (y * width + x) * channels + c, sizeof v);
    return v;
  }
};

// Calls function with a zero vector and a channel so that all channels are covered: the last narrow vector may repeat
// channels of the one before it. channels >= kNarrow.
template <typename F>
inline void for_each_vector(int64_t channels, const F& function) {
  constexpr int L = kLanes<float>;
  int64_t c = 0;
  for (; c + L <= channels; c += L) function(Vector<float>{}, c);
  for (; c < channels; c += kNarrow) function(Floats<kNarrow>{}, std::min(c, channels - kNarrow));
}

// V of `tiles` tiles side by side, each kStep to the right of the one before it; the first begins at (top, left).
// tile_of(i): the place of tile i in V, or -1 for none. columns: scratch, kSize * strip_columns vectors.
// Tiles overlap: the pass along y is done once a column, not once a tile.
template <typename Points, int kStep>
constexpr int64_t strip_columns(int64_t tiles) {
  return (tiles - 1) * kStep + Points::kSize;
}

template <typename Points, int kStep, typename Loader, typename TileOf>
void transform_strip(const Loader& loader, int64_t top, int64_t left, int64_t tiles, const TileOf& tile_of,
                     float* columns, float* v, int64_t position_stride) {
  constexpr int S = Points::kSize;
  int64_t row[S];
  bool inside = true;
  for (int i = 0; i < S; ++i) inside &= (row[i] = loader.row(top + i)) >= 0;
  for_each_vector(loader.channels, [&](auto zero, int64_t c) {
    typedef decltype(zero) V;
    constexpr int64_t L = sizeof(V) / sizeof(float);
    for (int64_t i = 0; i < strip_columns<Points, kStep>(tiles); ++i) {
      const int64_t x = loader.column(left + i);
      V from[S], to[S];
#pragma GCC unroll 8
      for (int j = 0; j < S; ++j)
        from[j] = x >= 0 && (inside || row[j] >= 0) ? loader.template value<V>(row[j], x, c) : zero;
      Points::input(from, to);
      std::memcpy(columns + i * S * L, to, sizeof to);
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t place = tile_of(tile);
      if (place < 0) continue;
      float* out = v + place * loader.channels + c;
      const float* in = columns + tile * kStep * S * L;
      for (int i = 0; i < S; ++i) {
        V from[S], to[S];
#pragma GCC unroll 8
        for (int j = 0; j < S; ++j) std::memcpy(&from[j], in + (j * S + i) * L, sizeof(V));
        Points::input(from, to);
#pragma GCC unroll 8
        for (int j = 0; j < S; ++j) std::memcpy(out + (i * S + j) * position_stride, &to[j], sizeof(V));
      }
    }
  });
}

// y [kOutputs][kOutputs] of one vector of outputs, from m[position * position_stride]. The bias is added at the point
// (1, 1), whose value goes to every output once.
template <typename Points, int kOutputs>
inline void transform_output(const float* m, int64_t position_stride, const Vector<float>& bias, Vector<float>* y) {
  constexpr int S = Points::kSize;
  Vector<float> half[kOutputs][S];
#pragma GCC unroll 8
  for (int j = 0; j < S; ++j) {
    Vector<float> from[S], to[kOutputs];
#pragma GCC unroll 8
    for (int i = 0; i < S; ++i) from[i] = load(m + (i * S + j) * position_stride);
    if (j == 1) from[1] += bias;
    Points::template output<kOutputs>(from, to);
#pragma GCC unroll 8
    for (int i = 0; i < kOutputs; ++i) half[i][j] = to[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kOutputs; ++i) Points::template output<kOutputs>(half[i], y + i * kOutputs);
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
