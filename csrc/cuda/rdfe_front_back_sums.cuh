// Gradients of depthwise taps as products: what a warp adds up for one channel in registers while it walks down a band.
//
// The rows of taps that a convolution meets (rdfe_front_bands.cuh) are here the results: with f's segments as the left operand,
// transposed, and the other image's as the right one, an m16n8k16 adds what 128 pixels give to a row of taps,
//
//      D [16 columns read, 8 columns of outputs] += sum over segments of f[segment, column read] g[segment, column of outputs]
//
// and when all is added a tap is the sum along a diagonal: column read - column of outputs - MARGIN is its place in the row.
#pragma once

#include "cuda/rdfe_front_back_turn.cuh"

namespace aminet::rdfe {

// Right operands of TILES products: a plane's segments.
template <typename T, typename W>
__device__ __forceinline__ void read_plane(const T* plane, uint32_t (&b)[W::TILES][2]) {
#pragma unroll
  for (int tile = 0; tile < W::TILES; ++tile)
    load_matrices<2, true>(b[tile], plane + (tile * 16 + threadIdx.x % 16) * 8);
}

// sums += f's rings times the plane's STEP rows; place: of the first of them in rings.
template <int SIZE, typename T, typename W>
__device__ __forceinline__ void correlate(const T* f, const uint32_t (&b)[W::TILES][2], int place, float (&sums)[SIZE][4]) {
  constexpr int BRANCH = SIZE / 2 - 1, READ = SIZE + (W::TILES - 1) * W::TILE;
  uint32_t next[4];
  Segments<T, W, W::f_rows(BRANCH)> segments(f + W::first_f(BRANCH), place - SIZE / 2);
  segments.template read<true>(next);
#pragma unroll
  for (int i = 0; i < READ; ++i) {
    const uint32_t a[4] = {next[0], next[1], next[2], next[3]};
    if (i + 1 < READ) segments.template read<true>(next);
#pragma unroll
    for (int tile = 0; tile < W::TILES; ++tile) {
      const int tap = i - tile * W::TILE;
      if (tap >= 0 && tap < SIZE) mma<T>(sums[tap], a, b[tile]);
    }
  }
}

// totals[BRANCH][.] += the plane's sums over segments.
template <int BRANCH, typename T, typename W>
__device__ __forceinline__ void add_plane(const uint32_t (&b)[W::TILES][2], float (&totals)[4]) {
  const uint32_t ones = threadIdx.x % LANES / 4 == BRANCH ? packed<T>(1.f, 1.f) : 0u;
#pragma unroll
  for (int tile = 0; tile < W::TILES; ++tile) mma<T>(totals, {ones, 0u, ones, 0u}, b[tile]);
}

// Of one channel, to `to` [PARTIAL_ROWS][8]; TURNED: sums has a tap where the transposed convolution reads it.
template <int SIZE, bool TURNED>
__device__ __forceinline__ void put_taps(const float (&sums)[SIZE][4], float* matrix, float* to) {
  const int lane = threadIdx.x % LANES;
  to += first_partial(SIZE / 2 - 1) * VECTOR;
#pragma unroll
  for (int i = 0; i < SIZE; ++i) {
#pragma unroll
    for (int v = 0; v < 4; ++v) matrix[(lane / 4 + v / 2 * 8) * 8 + lane % 4 * 2 + v % 2] = sums[i][v];
    __syncwarp();
    if (lane < SIZE) {
      float sum = 0.f;
#pragma unroll
      for (int column = 0; column < 8; ++column) sum += matrix[(column + MARGIN + lane - SIZE / 2) * 8 + column];
      const int tap = i * SIZE + lane;
      to[(TURNED ? SIZE * SIZE - 1 - tap : tap) * VECTOR] = sum;
    }
    __syncwarp();
  }
}

// A branch's sum over pixels.
__device__ __forceinline__ void put_total(float total, int branch, float* to) {
  total = warp_sum(total);
  if (threadIdx.x % LANES == 0) to[(first_partial(branch) + kernel_of(branch) * kernel_of(branch)) * VECTOR] = total;
}

}  // namespace aminet::rdfe
