// The strips' kernels: from y to f' in memory, and, at 24 channels in 16 bits, from y to z.
#pragma once

#include "cuda/mma.h"
#include "cuda/rdfe_front_strip.cuh"

namespace aminet::rdfe {

// f' [image, row, column, branch, C].
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(Strip<T, COLUMNS>::THREADS, 2)
    filter(const T* y, const float* a, Depthwise first, Depthwise second, T* f, Sizes s, Cut cut) {
  AMINET_DYNAMIC_SHARED(T, room);
  const Place at = cut.place(s, COLUMNS, blockIdx.x);
  const auto put = [&](int row, int column, int branch, int c, const Vector<T, 2>& pair) {
    const int x = at.x + column;
    if (row >= at.bottom || x >= s.width || c >= at.held) return;
    T* to = f + ((int64_t(at.n) * s.height + row) * s.width + x) * BRANCHES * s.channels + branch * s.channels +
            at.channel + c;
    if (s.channels % 2 == 0) {
      store(to, pair);
    } else {
      to[0] = pair[0];
      if (c + 1 < at.held) to[1] = pair[1];
    }
  };
  walk<T, COLUMNS>(y, a, first, second, s, at, room, put, [](int) {});
}

constexpr int WIDE = 32, INPUTS = BRANCHES * BLOCK;  // columns; inputs of the fusion, a row of 36 words: no bank conflicts
constexpr int STAGED = STEP * WIDE;                  // pixels

// For one warp: sums [pixel][output] of a tile of 8 outputs, whose weights are `b`, and every other tile of 16 pixels.
template <typename T>
__device__ __forceinline__ void fuse_tiles(const T* f, const uint32_t (&b)[5][2], int first_tile, float (&sums)[4][4]) {
  const int lane = threadIdx.x % LANES;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T* row = f + ((first_tile + 2 * i) * 16 + lane % 16) * INPUTS;
#pragma unroll
    for (int v = 0; v < 4; ++v) sums[i][v] = 0;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t a[4];
      load_matrices<4>(a, row + step * 16 + lane / 16 * 8);
      mma<T>(sums[i], a, b[step]);
    }
    uint32_t last[2];  // 72 is four and a half times 16
    load_matrices<2>(last, row + 64);
    mma<T>(sums[i], {last[0], last[1], 0u, 0u}, b[4]);
  }
}

// z of 24 channels.
template <typename T>
__global__ void __launch_bounds__(Strip<T, WIDE>::THREADS, 2)
    front(const T* y, const float* a, Depthwise first, Depthwise second, const T* fuse, Parameter bias, T* z, Sizes s,
          Cut cut) {
  AMINET_DYNAMIC_SHARED(T, room);
  using S = Strip<T, WIDE>;
  const Place at = cut.place(s, WIDE, blockIdx.x);
  T* staged = room + S::BYTES / sizeof(T);               // [STAGED][INPUTS]
  float* product = reinterpret_cast<float*>(staged);     // and then [STAGED][BLOCK]
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, tile = warp % 3, group = lane / 4, four = lane % 4;
  uint32_t b[5][2];
#pragma unroll
  for (int step = 0; step < 5; ++step) {
    const T* row = fuse + (tile * 8 + group) * INPUTS + step * 16 + 2 * four;
    b[step][0] = *reinterpret_cast<const uint32_t*>(row);
    b[step][1] = step < 4 ? *reinterpret_cast<const uint32_t*>(row + 8) : 0u;
  }
  const auto put = [&](int row, int column, int branch, int c, const Vector<T, 2>& pair) {
    store(staged + ((row - at.top) % STEP * WIDE + column) * INPUTS + branch * BLOCK + c, pair);
  };
  const auto finish = [&](int row) {
    float sums[4][4];
    __syncthreads();
    fuse_tiles(staged, b, warp / 3, sums);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float* to = product + ((warp / 3 + 2 * i) * 16 + group) * BLOCK + tile * 8 + 2 * four;
      to[0] = sums[i][0], to[1] = sums[i][1], to[8 * BLOCK] = sums[i][2], to[8 * BLOCK + 1] = sums[i][3];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < STAGED * 3; i += S::THREADS) {
      const int pixel = i / 3, c = i % 3 * 8, r = row + pixel / WIDE, x = at.x + pixel % WIDE;
      if (r >= at.bottom || x >= s.width) continue;
      const int64_t to = ((int64_t(at.n) * s.height + r) * s.width + x) * BLOCK + c;
      const auto residual = load<8>(y + to);
      Vector<T, 8> out;
#pragma unroll
      for (int v = 0; v < 8; ++v)
        out[v] = narrow<T>(product[pixel * BLOCK + c + v] + bias.at<T>(c + v) + widen(residual[v]));
      store(z + to, out);
    }
  };
  walk<T, WIDE>(y, a, first, second, s, at, room, put, finish);
}

template <typename T>
constexpr int FRONT_BYTES = Strip<T, WIDE>::BYTES + STAGED * INPUTS * int(sizeof(T));

}  // namespace aminet::rdfe
