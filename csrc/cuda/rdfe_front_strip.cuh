// f'_k = DW2_k(a f_k) + b'_k with f_k = DW_k(y) + b_k, for k = 3, 5, 7, by multiply-adds of float32: for float32 data, which
// tensor cores would round. Reads y (1 image), writes f' (3).
//
// A block has 24 channels of a strip of columns and walks down a band of rows, 4 rows a step: rings keep the rows of y and
// of a f_k that the next rows meet, so that nothing but a band's first 6 rows and a strip's halo of 3 columns is filtered
// twice. A thread makes 8 neighbours of a row of a pair of channels: what it loads of a row meets every tap of that row and,
// in filter_first, every branch. 98 loads of y and 83 of weights for 1,328 multiply-adds; of f_k 188 and 83.
// Strips of 16 columns: 100 KB, which every GPU from sm_80 on has, and two blocks on an H100.
#pragma once

#include "cuda/async.h"
#include "cuda/rdfe_front_shared.cuh"

namespace aminet::rdfe {

constexpr int BLOCK = 24, PAIRS = BLOCK / 2;  // channels
constexpr int STEP = 4;                       // rows that a strip advances by
constexpr int SEGMENT = 8;                    // neighbours in a row whose sums a thread has, of a pair of channels
constexpr int LEAD = 8;                       // rows before the first of a band that are walked for f_k
constexpr int Y_ROWS = STEP + 2 * REACH;

__host__ __device__ constexpr int f_rows(int branch) { return STEP + branch + 1 + REACH; }  // that a ring of f_k has

// Elements and bytes of shared memory for strips of COLUMNS columns.
template <typename T, int COLUMNS>
struct Strip {
  static constexpr int THREADS = COLUMNS / SEGMENT * STEP * PAIRS;
  static constexpr int Y_ROW = (COLUMNS + 4 * REACH) * BLOCK;
  static constexpr int F_ROW = (COLUMNS + 2 * REACH) * BLOCK;
  static constexpr int Y = Y_ROWS * Y_ROW;
  static constexpr int F = (f_rows(0) + f_rows(1) + f_rows(2)) * F_ROW;
  static constexpr int WEIGHTS = (2 * (TAPS + BRANCHES) + 1) * BLOCK;  // floats: of both convolutions, and a
  static constexpr int BYTES = (Y + F) * int(sizeof(T)) + WEIGHTS * int(sizeof(float));
  __host__ __device__ static constexpr int first_f(int branch) {
    return (branch > 0 ? f_rows(0) : 0) * F_ROW + (branch > 1 ? f_rows(1) : 0) * F_ROW;
  }
};

// Where a block is: columns `x` ... of rows `top` ... `bottom` - 1 of image n; channels from `channel` on.
struct Place {
  int n, x, top, bottom, channel, held;
};

struct Cut {
  int across, bands, rows, blocks;  // strips, bands of so many rows, blocks of channels
  __device__ __forceinline__ Place place(const Sizes& s, int columns, int block) const {
    const int channel = block % blocks * BLOCK, strip = block / blocks % across;
    const int band = block / (blocks * across) % bands, n = block / (blocks * across * bands);
    return {n, strip * columns, band * rows, min((band + 1) * rows, s.height), channel, min(BLOCK, s.channels - channel)};
  }
};

// [C, K, K] and [C] of the branches to [tap][BLOCK], biases last; zeros where there is no channel.
template <typename T, int THREADS>
__device__ __forceinline__ void load_weights(const Depthwise& from, const Place& at, float* to) {
  for (int branch = 0; branch < BRANCHES; ++branch) {
    const int taps = kernel_of(branch) * kernel_of(branch);
#pragma unroll 1
    for (int i = threadIdx.x; i < taps * BLOCK; i += THREADS) {
      const int c = i / taps, tap = i % taps;
      to[(first_tap(branch) + tap) * BLOCK + c] =
          c < at.held ? from.weight[branch].at<T>(int64_t(at.channel + c) * taps + tap) : 0.f;
    }
    for (int c = threadIdx.x; c < BLOCK; c += THREADS)
      to[(TAPS + branch) * BLOCK + c] = c < at.held ? from.bias[branch].at<T>(at.channel + c) : 0.f;
  }
}

// Rows first ... first + count - 1 of y, of columns x - 6 ... x + COLUMNS + 5, into the ring; zeros outside of the image.
template <typename T, int COLUMNS>
__device__ __forceinline__ void load_rows(const T* y, T* ring, const Sizes& s, const Place& at, int first, int count) {
  using S = Strip<T, COLUMNS>;
  constexpr int VECTOR = 16 / sizeof(T), GROUPS = BLOCK / VECTOR, PIXELS = COLUMNS + 4 * REACH;
  const T* image = y + int64_t(at.n) * s.height * s.width * s.channels + at.channel;
  const bool whole = s.channels % VECTOR == 0;
  const int each = whole ? GROUPS : BLOCK;
#pragma unroll 1
  for (int i = threadIdx.x; i < count * PIXELS * each; i += S::THREADS) {
    const int row = first + i / (PIXELS * each), pixel = i / each % PIXELS, x = at.x + pixel - 2 * REACH;
    const int channel = i % each * (whole ? VECTOR : 1);
    const bool inside = row >= 0 && row < s.height && x >= 0 && x < s.width && channel < at.held;
    const T* from = inside ? image + (int64_t(row) * s.width + x) * s.channels + channel : y;
    T* to = ring + (row - at.top + LEAD + REACH) % Y_ROWS * S::Y_ROW + pixel * BLOCK + channel;
    if (whole)
      copy_async<16>(to, from, inside);
    else
      *to = inside ? *from : narrow<T>(0.f);
  }
  commit_async();
}

// N neighbours in a row of a pair of channels.
template <int N, typename T>
__device__ __forceinline__ void load_row(const T* from, float (&to)[N][2]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const auto pair = load<2>(from + i * BLOCK);
    to[i][0] = widen(pair[0]), to[i][1] = widen(pair[1]);
  }
}

// sums += one row of a kernel of SIZE taps, weights [SIZE][BLOCK]; row[OFFSET] is what the first tap of sums[0] meets.
template <int SIZE, int OFFSET, int N>
__device__ __forceinline__ void add_row(const float* weights, const float (&row)[N][2], float (&sums)[SEGMENT][2]) {
#pragma unroll
  for (int tap = 0; tap < SIZE; ++tap) {
    const auto w = load<2>(weights + tap * BLOCK);
#pragma unroll
    for (int i = 0; i < SEGMENT; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) sums[i][c] += w[c] * row[OFFSET + tap + i][c];
  }
}

// a f_k, rounded to T, of rows first ... first + 3 and of the strip's columns with 3 more on either side that are in the
// image. What the rings have outside of the image stays zero, as the second convolution wants it.
template <typename T, int COLUMNS>
__device__ __forceinline__ void filter_first(const T* y, T* f, const float* weights, const float* a, const Sizes& s,
                                             const Place& at, int first) {
  using S = Strip<T, COLUMNS>;
  const int begin = at.x == 0 ? 0 : -REACH, end = min(s.width - at.x, COLUMNS + REACH);
  const int units = (end - begin + SEGMENT - 1) / SEGMENT * STEP * PAIRS;
  for (int unit = threadIdx.x; unit < units; unit += S::THREADS) {
    const int c = unit % PAIRS * 2, row = first + unit / PAIRS % STEP, x = begin + unit / (PAIRS * STEP) * SEGMENT;
    if (row < at.top - REACH || row >= at.bottom + REACH) continue;
    const int place = row - at.top + LEAD;  // not below 0
    float sums[BRANCHES][SEGMENT][2] = {};
    const bool inside = row >= 0 && row < s.height;
    if (inside) {
#pragma unroll
      for (int i = 0; i < LARGEST; ++i) {
        float values[SEGMENT + 2 * REACH][2];
        load_row(y + (place + i) % Y_ROWS * S::Y_ROW + (x + REACH) * BLOCK + c, values);
        const float* w = weights + c;
        if (i >= 2 && i < 5) add_row<3, 2>(w + (i - 2) * 3 * BLOCK, values, sums[0]);
        if (i >= 1 && i < 6) add_row<5, 1>(w + (first_tap(1) + (i - 1) * 5) * BLOCK, values, sums[1]);
        add_row<7, 0>(w + (first_tap(2) + i * 7) * BLOCK, values, sums[2]);
      }
    }
#pragma unroll
    for (int branch = 0; branch < BRANCHES; ++branch) {
      const auto bias = load<2>(weights + (TAPS + branch) * BLOCK + c);
      T* to = f + S::first_f(branch) + place % f_rows(branch) * S::F_ROW + (x + REACH) * BLOCK + c;
#pragma unroll
      for (int i = 0; i < SEGMENT; ++i) {
        if (x + i >= end) break;
        Vector<T, 2> pair;
#pragma unroll
        for (int v = 0; v < 2; ++v) pair[v] = narrow<T>(inside ? (sums[branch][i][v] + bias[v]) * a[c + v] : 0.f);
        store(to + i * BLOCK, pair);
      }
    }
  }
}

// f' of one branch at this thread's 8 pixels, in rows first ... first + 3, given to put (see walk).
template <int BRANCH, typename T, int COLUMNS, typename Put>
__device__ __forceinline__ void filter_second(const T* f, const float* weights, const Place& at, int first, Put put) {
  using S = Strip<T, COLUMNS>;
  constexpr int SIZE = kernel_of(BRANCH), REACHED = SIZE / 2;
  const int c = threadIdx.x % PAIRS * 2, row = first + threadIdx.x / PAIRS % STEP;
  const int x = threadIdx.x / (PAIRS * STEP) * SEGMENT;
  float sums[SEGMENT][2] = {};
#pragma unroll
  for (int i = 0; i < SIZE; ++i) {
    float values[SEGMENT + 2 * REACHED][2];
    const int place = (row - at.top + LEAD + i - REACHED) % f_rows(BRANCH);
    load_row(f + S::first_f(BRANCH) + place * S::F_ROW + (x + REACH - REACHED) * BLOCK + c, values);
    add_row<SIZE, 0>(weights + (first_tap(BRANCH) + i * SIZE) * BLOCK + c, values, sums);
  }
  const auto bias = load<2>(weights + (TAPS + BRANCH) * BLOCK + c);
#pragma unroll
  for (int i = 0; i < SEGMENT; ++i) {
    Vector<T, 2> pair;
#pragma unroll
    for (int v = 0; v < 2; ++v) pair[v] = narrow<T>(sums[i][v] + bias[v]);
    put(row, x + i, BRANCH, c, pair);
  }
}

// Walks a block's strip from top to bottom: for every STEP rows of output, put(row, column of the strip, branch, channel
// of the block, pair of f') by the thread that has them, for columns and rows beyond the image too.
template <typename T, int COLUMNS, typename Put>
__device__ __forceinline__ void walk_strip(const T* y, const float* a, const Depthwise& first, const Depthwise& second,
                                           const Sizes& s, const Place& at, T* room, Put put) {
  using S = Strip<T, COLUMNS>;
  T *ring = room, *f = ring + S::Y;
  float *weights1 = reinterpret_cast<float*>(f + S::F), *weights2 = weights1 + (TAPS + BRANCHES) * BLOCK;
  load_rows<T, COLUMNS>(y, ring, s, at, at.top - LEAD, Y_ROWS);
  load_weights<T, S::THREADS>(first, at, weights1);
  load_weights<T, S::THREADS>(second, at, weights2);
  float* scale = weights2 + (TAPS + BRANCHES) * BLOCK;
  for (int c = threadIdx.x; c < BLOCK; c += S::THREADS)
    scale[c] = c < at.held ? a[int64_t(at.n) * s.channels + at.channel + c] : 0.f;
#pragma unroll 1
  for (int i = threadIdx.x; i < S::F; i += S::THREADS) f[i] = narrow<T>(0.f);
  for (int row = at.top - LEAD; row < at.bottom; row += STEP) {
    wait_async<0>();
    __syncthreads();  // y has come; f_k's last readers are through
    filter_first<T, COLUMNS>(ring, f, weights1, scale, s, at, row + REACH);
    __syncthreads();
    if (row + STEP < at.bottom) load_rows<T, COLUMNS>(y, ring, s, at, row + Y_ROWS, STEP);
    if (row < at.top) continue;
    filter_second<0, T, COLUMNS>(f, weights2, at, row, put);
    filter_second<1, T, COLUMNS>(f, weights2, at, row, put);
    filter_second<2, T, COLUMNS>(f, weights2, at, row, put);
  }
}

}  // namespace aminet::rdfe
