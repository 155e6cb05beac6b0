// The weight of norm_act_conv_tiles.cpp part by part, and the gradient of the parts as the weight's.
#pragma once

#include <algorithm>

#include "cpu/norm_act_conv.h"
#include "gemm.h"
#include "norm_act_conv_algebra.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// weight [outputs][3][3][channels] -> [part][c][outputs rounded up]; blocks of both, turned in the first-level cache.
template <typename A, typename T>
void forward_weights(const TileWeights& a, int64_t first, int64_t last) {
  constexpr int N = A::kParts;
  constexpr int64_t B = kTilePadding;
  const int64_t C = a.shape.channels, K = a.shape.outputs, pitch = tile_padded(K);
  alignas(64) T w[B][9][B] = {};
  for (int64_t c = first; c < last; c += B)
    for (int64_t k = 0; k < K; k += B) {
      const int64_t count = std::min(B, last - c);
      for (int64_t j = 0; j < std::min(B, K - k); ++j)
        for (int64_t tap = 0; tap < 9; ++tap) {
          const T* from = static_cast<const T*>(a.weight) + ((k + j) * 9 + tap) * C + c;
          for (int64_t i = 0; i < count; ++i) w[i][tap][j] = from[i];
        }
      for (int64_t i = 0; i < count; ++i)
        for (int64_t j = 0; j < B; j += kLanes<T>) {
          Vector<T> half[3][N];
          for (int y = 0; y < 3; ++y) {
            Vector<T> d[3];
            for (int x = 0; x < 3; ++x) d[x] = load(&w[i][y * 3 + x][j]);
            A::weight(d, half[y], T(0.5));
          }
          for (int x = 0; x < N; ++x) {
            const Vector<T> d[3] = {half[0][x], half[1][x], half[2][x]};
            Vector<T> m[N];
            A::weight(d, m, T(0.5));
            for (int y = 0; y < N; ++y)
              store(static_cast<T*>(a.to) + ((y * N + x) * C + c + i) * pitch + k + j, m[y]);
          }
        }
    }
}

// weight [outputs][3][3][channels] -> [part][k][channels rounded up]
template <typename A, typename T>
void backward_weights(const TileWeights& a, int64_t first, int64_t last) {
  constexpr int N = A::kParts;
  const int64_t C = a.shape.channels, K = a.shape.outputs, pitch = tile_padded(C);
  for (int64_t k = first; k < last; ++k)
    for (int64_t c = 0; c < C; c += kLanes<T>) {
      Vector<T> half[3][N];
      for (int y = 0; y < 3; ++y) {
        Vector<T> d[3];
        for (int x = 0; x < 3; ++x)
          d[x] = load_some(static_cast<const T*>(a.weight) + (k * 9 + y * 3 + x) * C + c, C - c);
        A::weight(d, half[y], T(0.5));
      }
      for (int x = 0; x < N; ++x) {
        const Vector<T> d[3] = {half[0][x], half[1][x], half[2][x]};
        Vector<T> m[N];
        A::weight(d, m, T(0.5));
        for (int y = 0; y < N; ++y) store(static_cast<T*>(a.to) + ((y * N + x) * K + k) * pitch + c, m[y]);
      }
    }
}

// dweight [part][k][channels rounded up] -> [outputs][3][3][channels]
template <typename A, typename T>
void weight_gradient(const TileWeights& a, int64_t first, int64_t last) {
  constexpr int N = A::kParts;
  const int64_t C = a.shape.channels, K = a.shape.outputs, pitch = tile_padded(C);
  for (int64_t k = first; k < last; ++k)
    for (int64_t c = 0; c < C; c += kLanes<T>) {
      Vector<T> half[N][3];
      for (int y = 0; y < N; ++y) {
        Vector<T> m[N];
        for (int x = 0; x < N; ++x) m[x] = load(static_cast<const T*>(a.dweight) + ((y * N + x) * K + k) * pitch + c);
        A::weight_adjoint(m, half[y], T(0.5));
      }
      for (int x = 0; x < 3; ++x) {
        Vector<T> m[N], d[3];
        for (int y = 0; y < N; ++y) m[y] = half[y][x];
        A::weight_adjoint(m, d, T(0.5));
        for (int y = 0; y < 3; ++y)
          store_some(static_cast<T*>(a.to) + (k * 9 + y * 3 + x) * C + c, d[y], C - c);
      }
    }
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
