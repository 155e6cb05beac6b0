// The kernels that filter: from y to f' in memory, and, at 24 channels in 16 bits, from y to z.
#pragma once

#include "cuda/rdfe_front_strip.cuh"
#include "cuda/rdfe_front_walk.cuh"

namespace aminet::rdfe {

// f' [image, row, column, branch, C] by multiplications and additions in float32.
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(Strip<T, COLUMNS>::THREADS, 2)
    filter_exactly(const T* y, const float* a, Depthwise first, Depthwise second, T* f, Sizes s, Cut cut) {
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
  walk_strip<T, COLUMNS>(y, a, first, second, s, at, room, put);
}

// f' [image, row, column, branch, C] on tensor cores.
template <typename T, int SEGMENTS>
__global__ void __launch_bounds__(256, 2)
    filter(const T* y, const float* a, Depthwise first, Depthwise second, T* f, Sizes s, Views views) {
  using W = Window<SEGMENTS, VECTOR, 1>;
  static_assert(W::THREADS == 256);
  AMINET_DYNAMIC_SHARED(T, all);
  const Room<T, W> room(all);
  const View at = views.view<W>(s, blockIdx.x);
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const auto finish = [&](int row) {
    constexpr int GROUPS = W::PIXELS / 8;  // of pixels
#pragma unroll 1
    for (int i = warp; i < BRANCHES * GROUPS; i += W::WARPS) {
      const int branch = i / GROUPS, pixel = i % GROUPS * 8;
      uint32_t pair[1];  // two channels of pixel lane / 4
      load_matrices<1, true>(pair, room.out + (branch * VECTOR + lane % 8) * W::OUT_PLANE + pixel);
      const int own = pixel + lane / 4, r = row + own / W::COLUMNS, x = at.x + own % W::COLUMNS, c = lane % 4 * 2;
      if (r >= at.bottom || !at.owns<W>(x, s.width) || c >= at.held) continue;
      T* to = f + (((int64_t(at.n) * s.height + r) * s.width + x) * BRANCHES + branch) * s.channels + at.channel + c;
      if (s.channels % 2 == 0) {
        *reinterpret_cast<uint32_t*>(to) = pair[0];
      } else {
        const auto both = *reinterpret_cast<const Vector<T, 2>*>(pair);
        to[0] = both[0];
        if (c + 1 < at.held) to[1] = both[1];
      }
    }
  };
  walk<T, W>(y, a, first, second, s, at, room, finish);
}

using Wide = Window<16, 24, 2>;
constexpr int INPUTS = BRANCHES * Wide::CHANNELS;  // of the fusion

constexpr int FUSE_STEPS = (INPUTS + 15) / 16;       // of 16 inputs; the last one has 8
constexpr int FUSE_WORDS = 3 * FUSE_STEPS * LANES * 2;  // F as the products' right operands [tile of 8 outputs][step][lane][2]
constexpr int FRONT_BYTES = Wide::BYTES + FUSE_WORDS * 4;

template <typename T>
__device__ __forceinline__ void load_fuse(const T* fuse, uint32_t* to) {
#pragma unroll 1
  for (int i = threadIdx.x; i < FUSE_WORDS; i += Wide::THREADS) {
    const int half = i % 2, lane = i / 2 % LANES, step = i / (2 * LANES) % FUSE_STEPS, tile = i / (2 * LANES * FUSE_STEPS);
    const int input = step * 16 + half * 8 + lane % 4 * 2;
    to[i] = input < INPUTS ? *reinterpret_cast<const uint32_t*>(fuse + (tile * 8 + lane / 4) * INPUTS + input) : 0u;
  }
}

// The fusion's product for a warp: 8 outputs, whose weights are b, of 16 pixels; f: f' of the first pixel.
template <typename T>
__device__ __forceinline__ void fuse_tile(const T* f, const uint32_t (&b)[FUSE_STEPS][2], float (&sums)[4]) {
  const int lane = threadIdx.x % LANES;
  const T* left = f + (lane % 8 + lane / 16 * 8) * Wide::OUT_PLANE + lane / 8 % 2 * 8;
#pragma unroll
  for (int step = 0; step < FUSE_STEPS - 1; ++step) {
    uint32_t a[4];
    load_matrices<4, true>(a, left + step * 16 * Wide::OUT_PLANE);
    mma<T>(sums, a, b[step]);
  }
  uint32_t last[2];  // 72 inputs are four and a half times 16
  load_matrices<2, true>(last, f + (64 + lane % 8) * Wide::OUT_PLANE + lane / 8 % 2 * 8);
  mma<T>(sums, {last[0], last[1], 0u, 0u}, b[FUSE_STEPS - 1]);
}

// z of 24 channels. fuse: [24, 72] of T.
template <typename T>
__global__ void __launch_bounds__(Wide::THREADS, 1)
    front(const T* y, const float* a, Depthwise first, Depthwise second, const T* fuse, Parameter bias, T* z, Sizes s,
          Views views) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900  // older ones do not have the shared memory, see run_front
  using W = Wide;
  AMINET_DYNAMIC_SHARED(T, all);
  const Room<T, W> room(all);
  uint32_t* weights = room.small + W::CHANNELS * 2 * SMALL;
  View at = views.view<W>(s, blockIdx.x);
  s.channels = at.held = W::CHANNELS, at.channel = 0;  // constants take no registers
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, tile = warp % 3, c = tile * 8 + lane % 4 * 2;
  load_fuse(fuse, weights);
  const auto finish = [&](int row) {
    uint32_t b[FUSE_STEPS][2];
#pragma unroll
    for (int step = 0; step < FUSE_STEPS; ++step) {
      const auto pair = load<2>(weights + ((tile * FUSE_STEPS + step) * LANES + lane) * 2);
      b[step][0] = pair[0], b[step][1] = pair[1];
    }
    const float bias0 = bias.at<T>(c), bias1 = bias.at<T>(c + 1);
#pragma unroll 1
    for (int pixel = warp / 3 * 16; pixel < W::PIXELS; pixel += W::WARPS / 3 * 16) {
      float sums[4] = {bias0, bias1, bias0, bias1};
      fuse_tile(room.out + pixel, b, sums);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int own = pixel + lane / 4 + 8 * half, r = row + own / W::COLUMNS, x = at.x + own % W::COLUMNS;
        if (r >= at.bottom || !at.owns<W>(x, s.width)) continue;
        const int64_t to = ((int64_t(at.n) * s.height + r) * s.width + x) * W::CHANNELS + c;
        const auto residual = load<2>(y + to);
        *reinterpret_cast<uint32_t*>(z + to) =
            packed<T>(sums[2 * half] + widen(residual[0]), sums[2 * half + 1] + widen(residual[1]));
      }
    }
  };
  walk<T, W>(y, a, first, second, s, at, room, finish);
#endif
}

}  // namespace aminet::rdfe
