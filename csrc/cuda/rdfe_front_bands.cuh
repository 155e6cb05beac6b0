// f'_k = DW2_k(a f_k) + b'_k with f_k = DW_k(y) + b_k on tensor cores, for data of 16 bits: sums in float32, taps and a f_k
// rounded to the data's dtype.
//
// A channel's row of K taps is a band matrix B [16 columns read, 8 columns of outputs], and 16 segments of 8 columns are the
// rows of the other operand, whose 16 columns overlap. One m16n8k16 gives what a row of taps gives to 128 outputs:
//
//      y: segment s, columns 8 s - 4 ... 8 s + 11        B of 7 taps (first column read: 4 left of the first output)
//         [ . . . . o o o o o o o o . . . . ]              0 w0 w1 w2 w3 w4 w5 w6 0 ...       down: columns read
//                   ^ the segment's outputs                0 0  w0 w1 w2 w3 w4 w5 w6 0        across: 8 outputs
//
// 44% of its multiply-adds are taps for K = 7, 31% for 5, 19% for 3: 30 products for 128 outputs of both convolutions, where
// 10,624 multiply-adds of float32 an output would be 166 instructions a lane. B does not change: a warp keeps it in registers.
// What a row reads is read once for all taps of a column and, in filter_first, for all branches.
#pragma once

#include "cuda/rdfe_front_window.cuh"

namespace aminet::rdfe {

// A row of taps as the right operand [16 columns read, 8 columns of outputs]: tap i stands where the column read is i - K / 2
// away from the output's, and the first column read is MARGIN left of the first output. TURNED: as the transposed
// convolution reads them.
template <typename T, typename Stored, bool TURNED>
__device__ __forceinline__ void band_matrix(const void* weight, int64_t row, int size, bool there, uint32_t (&b)[2]) {
  const int lane = threadIdx.x % LANES, first = lane % 4 * 2 - lane / 4 - MARGIN + size / 2;
  const Stored* taps = static_cast<const Stored*>(weight) + row * size;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int tap = first + 8 * half;
    const auto at = [&](int i) { return there && i >= 0 && i < size ? widen(taps[TURNED ? size - 1 - i : i]) : 0.f; };
    b[half] = packed<T>(at(tap), at(tap + 1));
  }
}

// Of a channel's kernels of 5 and 7 taps, in registers for as long as a block lives. Those of 3 taps have only 4 pairs of
// taps a row, from (-, tap 0) to (tap 2, -): there are not enough registers for them, and they wait in shared memory.
struct Bands {
  uint32_t of5[5][2], of7[7][2];

  template <typename T>
  __device__ __forceinline__ void make(const Depthwise& d, int64_t channel, bool there) {
    fill<T>(d.weight[1], channel, there, of5);
    fill<T>(d.weight[2], channel, there, of7);
  }
  template <typename T, bool TURNED = false, int SIZE>
  __device__ __forceinline__ static void fill(const Parameter& p, int64_t channel, bool there, uint32_t (&to)[SIZE][2]) {
    const auto row = [&](int i) { return channel * SIZE + (TURNED ? SIZE - 1 - i : i); };
    if (p.wide) {
#pragma unroll
      for (int i = 0; i < SIZE; ++i) band_matrix<T, float, TURNED>(p.data, row(i), SIZE, there, to[i]);
    } else {
#pragma unroll
      for (int i = 0; i < SIZE; ++i) band_matrix<T, T, TURNED>(p.data, row(i), SIZE, there, to[i]);
    }
  }
};

__device__ __forceinline__ void band_matrices_of_3(const uint32_t* table, uint32_t (&b)[3][2]) {
  const int lane = threadIdx.x % LANES, first = lane % 4 * 2 - lane / 4 - MARGIN + 1;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int pair = first + 8 * half + 1;
#pragma unroll
    for (int i = 0; i < 3; ++i) b[i][half] = pair >= 0 && pair < PAIRS_OF_3 ? table[i * PAIRS_OF_3 + pair] : 0u;
  }
}

// Reads the left operand [16 segments, 16 columns read], of TILE rows of a ring and then of those one row further down.
template <typename T, typename W, int ROWS>
struct Segments {
  const T *at, *end;
  __device__ __forceinline__ Segments(const T* ring, int row) {
    const int lane = threadIdx.x % LANES, position = lane % 16, segment = position % W::SEGMENTS + lane / 16;
    at = ring + (row + position / W::SEGMENTS) % ROWS * W::ROW + segment * VECTOR;
    end = ring + ROWS * W::ROW;
  }
  // TRANSPOSED: as the left operand [16 columns read, 16 segments].
  template <bool TRANSPOSED = false>
  __device__ __forceinline__ void read(uint32_t (&a)[4]) {
    load_matrices<4, TRANSPOSED>(a, at);
    if (TRANSPOSED) {
      const uint32_t further = a[1];
      a[1] = a[2], a[2] = further;
    }
    at += W::ROW;
    if (at >= end) at -= ROWS * W::ROW;
  }
};

// What filter_first makes of a sum, and what it shows before it rounds: a value of a row and column, and of the next column.
struct Forward {
  __device__ __forceinline__ static float made(float sum, float bias, float scale) { return (sum + bias) * scale; }
  __device__ __forceinline__ void seen(int, int, int, float, float) {}
};

// a f_k of one channel for the next STEP rows of branches FIRST ... LAST, which are behind y's by their reach; outside of
// the image 0. place: of y's first row, `row` of the image, in rings, of which y's has ROWS.
template <int FIRST, int LAST, typename T, typename W, int ROWS = W::Y_ROWS, typename How = Forward>
__device__ __forceinline__ void filter_first(const T* y, T* f, const Bands& bands, const uint32_t* small, const float* scalars,
                                             const Sizes& s, const View& at, int row, int place, How how = {}) {
  constexpr int READ = kernel_of(LAST) + (W::TILES - 1) * W::TILE;
  const int lane = threadIdx.x % LANES;
  float sums[W::TILES][BRANCHES][4] = {};
  uint32_t next[4], of3[3][2];
  if (FIRST == 0) band_matrices_of_3(small, of3);
  Segments<T, W, ROWS> segments(y, place);
  segments.read(next);
#pragma unroll
  for (int i = 0; i < READ; ++i) {
    const uint32_t a[4] = {next[0], next[1], next[2], next[3]};
    if (i + 1 < READ) segments.read(next);
#pragma unroll
    for (int tile = 0; tile < W::TILES; ++tile) {
      const int tap = i - tile * W::TILE;
      if (LAST >= 2 && tap >= 0 && tap < 7) mma<T>(sums[tile][2], a, bands.of7[tap]);
      if (FIRST <= 1 && LAST >= 1 && tap >= 0 && tap < 5) mma<T>(sums[tile][1], a, bands.of5[tap]);
      if (FIRST <= 0 && tap >= 0 && tap < 3) mma<T>(sums[tile][0], a, of3[tap]);
    }
  }
  const float scale = scalars[6];
#pragma unroll
  for (int tile = 0; tile < W::TILES; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = lane / 4 + 8 * half, r = tile * W::TILE + position / W::SEGMENTS;
      const int column = position % W::SEGMENTS * 8 + lane % 4 * 2, x = at.x + column;
#pragma unroll
      for (int branch = FIRST; branch <= LAST; ++branch) {
        const int image_row = row + r + branch + 1;
        const bool inside = image_row >= 0 && image_row < s.height;
        const float bias = scalars[branch];
        const float low = inside && x < s.width ? how.made(sums[tile][branch][2 * half], bias, scale) : 0.f;
        const float high = inside && x + 1 < s.width ? how.made(sums[tile][branch][2 * half + 1], bias, scale) : 0.f;
        how.seen(branch, image_row, x, low, high);
        T* to = f + W::first_f(branch) + (place + r + branch + 1) % W::f_rows(branch) * W::ROW + MARGIN + column;
        *reinterpret_cast<uint32_t*>(to) = packed<T>(low, high);
      }
    }
}

// sums += a second convolution of SIZE taps of one channel, STEP rows; place: of the first one in rings.
template <int SIZE, typename T, typename W>
__device__ __forceinline__ void add_second(const T* f, const uint32_t (&bands)[SIZE][2], int place,
                                           float (&sums)[W::TILES][4]) {
  constexpr int BRANCH = SIZE / 2 - 1, READ = SIZE + (W::TILES - 1) * W::TILE;
  uint32_t next[4];
  Segments<T, W, W::f_rows(BRANCH)> segments(f + W::first_f(BRANCH), place - SIZE / 2);
  segments.read(next);
#pragma unroll
  for (int i = 0; i < READ; ++i) {
    const uint32_t a[4] = {next[0], next[1], next[2], next[3]};
    if (i + 1 < READ) segments.read(next);
#pragma unroll
    for (int tile = 0; tile < W::TILES; ++tile) {
      const int tap = i - tile * W::TILE;
      if (tap >= 0 && tap < SIZE) mma<T>(sums[tile], a, bands[tap]);
    }
  }
}

// f' of one channel and branch, scaled: STEP rows.
template <int SIZE, typename T, typename W>
__device__ __forceinline__ void filter_second(const T* f, T* out, const uint32_t (&bands)[SIZE][2], float scale, float bias,
                                              int place) {
  const int lane = threadIdx.x % LANES;
  float sums[W::TILES][4] = {};
  add_second<SIZE, T, W>(f, bands, place, sums);
  out += (SIZE / 2 - 1) * W::CHANNELS * W::OUT_PLANE;
#pragma unroll
  for (int tile = 0; tile < W::TILES; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = lane / 4 + 8 * half;
      T* to = out + (tile * 16 + position) * 8 + lane % 4 * 2;  // segments follow each other, row after row
      *reinterpret_cast<uint32_t*>(to) =
          packed<T>(fmaf(sums[tile][2 * half], scale, bias), fmaf(sums[tile][2 * half + 1], scale, bias));
    }
}

}  // namespace aminet::rdfe
