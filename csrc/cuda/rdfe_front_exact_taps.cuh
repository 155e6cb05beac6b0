// The arithmetic of the float32 backward's depthwise passes in registers: what one row of x gives the outputs, or the
// sums, of P neighbouring pixels of one channel. Rows are met from the top down; branch K keeps K rows (of outputs, or of
// dy) in registers.
//
// Row `at` of x meets rows at - K/2 .. at + K/2. Those outside a band [top, bottom) must not be met; Met says which are
// inside, and the compiler makes a second body without questions for rows that meet no border (kAll).
#pragma once

#include "cuda/device.h"

namespace aminet::rdfe::exact {

constexpr int kReach = 3;  // of the largest kernel

// Which of the rows at - 3 .. at + 3 are there.
template <bool ALL>
struct Met {
  unsigned rows;
  __device__ __forceinline__ bool operator()(int offset) const { return ALL || (rows >> (offset + kReach) & 1); }
};

__device__ __forceinline__ unsigned rows_met(int at, int top, int bottom, int height) {
  unsigned rows = 0;
#pragma unroll
  for (int offset = -kReach; offset <= kReach; ++offset)
    if (at >= 0 && at < height && at + offset >= top && at + offset < bottom) rows |= 1u << (offset + kReach);
  return rows;
}

// P + 2 REACH values of a row in shared memory, float; `row` points at the first of the P pixels.
template <int P, int REACH, int LANES>
__device__ __forceinline__ void load_window(float (&x)[P + 2 * REACH], const float* row) {
#pragma unroll
  for (int i = 0; i < P + 2 * REACH; ++i) x[i] = row[(i - REACH) * LANES];
}

// sum + what a row of taps makes of pixel p's window.
template <int K, int P, int REACH>
__device__ __forceinline__ float row_of_taps(const float (&x)[P + 2 * REACH], const float* w, int p, float sum) {
#pragma unroll
  for (int kx = 0; kx < K; ++kx) sum = fmaf(x[p + kx + REACH - K / 2], w[kx], sum);
  return sum;
}

// Moves outputs [K][P] on by a row of x: y[j] is then row at - K/2 + j, and y[0] is done. The new row begins at
// `start`. The move is free: it is the addend of the first multiply-add.
template <int K, int P, int REACH, bool ALL>
__device__ __forceinline__ void advance(float (&y)[K][P], const float (&x)[P + 2 * REACH], const float (&w)[K * K],
                                        float start, Met<ALL> met) {
#pragma unroll
  for (int j = 0; j < K; ++j) {
    if (met(j - K / 2)) {
#pragma unroll
      for (int p = 0; p < P; ++p)
        y[j][p] = row_of_taps<K, P, REACH>(x, w + (K - 1 - j) * K, p, j + 1 < K ? y[j + 1 < K ? j + 1 : j][p] : start);
    } else {
#pragma unroll
      for (int p = 0; p < P; ++p) y[j][p] = j + 1 < K ? y[j + 1 < K ? j + 1 : j][p] : start;
    }
  }
}

// Adds to outputs [ROWS][P] of a larger kernel, which have moved already.
template <int K, int P, int REACH, int ROWS, bool ALL>
__device__ __forceinline__ void add_row(float (&y)[ROWS][P], const float (&x)[P + 2 * REACH], const float (&w)[K * K],
                                        Met<ALL> met) {
#pragma unroll
  for (int j = 0; j < K; ++j)
    if (met(j - K / 2)) {
#pragma unroll
      for (int p = 0; p < P; ++p) {
        float& sum = y[j + ROWS / 2 - K / 2][p];
        sum = row_of_taps<K, P, REACH>(x, w + (K - 1 - j) * K, p, sum);
      }
    }
}

// sums [K][K] and what row `at` of x makes with the rows of dy [K][P] that it meets: dy[j] is row at - K/2 + j.
template <int K, int P, int REACH, bool ALL>
__device__ __forceinline__ void correlate(float (&sums)[K * K], const float (&x)[P + 2 * REACH],
                                          const float (&dy)[K][P], Met<ALL> met) {
#pragma unroll
  for (int ky = 0; ky < K; ++ky)
    if (met(K / 2 - ky)) {
#pragma unroll
      for (int p = 0; p < P; ++p)
#pragma unroll
        for (int kx = 0; kx < K; ++kx) {
          float& sum = sums[ky * K + kx];
          sum = fmaf(x[p + kx + REACH - K / 2], dy[K - 1 - ky][p], sum);
        }
    }
}

}  // namespace aminet::rdfe::exact
