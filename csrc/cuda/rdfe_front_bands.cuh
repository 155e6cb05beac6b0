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

template <typename T, typename W>
__device__ __forceinline__ void prepare(const Room<T, W>& room, const float* a, const Depthwise& first,
                                        const Depthwise& second, const Sizes& s, const View& at) {
  for (int i = threadIdx.x; i < W::CHANNELS; i += W::THREADS) {
    const bool there = i < at.held;
    const int c = there ? at.channel + i : 0;
#pragma unroll
    for (int branch = 0; branch < BRANCHES; ++branch) {
      room.scalars[i * 8 + branch] = there ? first.bias[branch].at<T>(c) : 0.f;
      room.scalars[i * 8 + 3 + branch] = there ? second.bias[branch].at<T>(c) : 0.f;
    }
    room.scalars[i * 8 + 6] = there ? a[int64_t(at.n) * s.channels + c] : 0.f;
  }
  for (int i = threadIdx.x; i < W::CHANNELS * 2 * SMALL; i += W::THREADS) {
    const int c = i / (2 * SMALL), row = i % SMALL / PAIRS_OF_3, tap = i % PAIRS_OF_3 - 1;
    const Parameter weight = i % (2 * SMALL) < SMALL ? first.weight[0] : second.weight[0];
    const auto value = [&](int j) {
      return c < at.held && j >= 0 && j < 3 ? weight.at<T>((int64_t(at.channel + c) * 3 + row) * 3 + j) : 0.f;
    };
    room.small[i] = packed<T>(value(tap), value(tap + 1));
  }
  // f_k beside and above the image.
  uint32_t* f = reinterpret_cast<uint32_t*>(room.f);
#pragma unroll 1
  for (int i = threadIdx.x; i < W::CHANNELS * W::F_PLANE / 2; i += W::THREADS) f[i] = 0;
}

// Walks a block's window from top to bottom; finish(row) by all threads where room.out has f' of STEP rows.
template <typename T, typename W, typename Finish>
__device__ __forceinline__ void walk(const T* y, const float* a, const Depthwise& first, const Depthwise& second,
                                     const Sizes& s, const View& at, const Room<T, W>& room, Finish finish) {
  const int own = threadIdx.x / LANES * W::EACH;  // a warp's channels
  fetch<T, W>(y, room.stage, s, at, at.top - 2 * W::LEAD + 2 * REACH);
  Bands bands[W::EACH][2];
#pragma unroll
  for (int i = 0; i < W::EACH; ++i) {
    bands[i][0].template make<T>(first, at.channel + own + i, own + i < at.held);
    bands[i][1].template make<T>(second, at.channel + own + i, own + i < at.held);
  }
  prepare<T, W>(room, a, first, second, s, at);
  for (int row = at.top - 2 * W::LEAD; row < at.bottom; row += W::STEP) {
    const int place = row - at.top + 2 * W::LEAD;  // in rings, of this row
    wait_async<0>();
    __syncthreads();  // y has come, and its ring's last readers are through
    turn<T, W>(room.stage, room.y, place + 2 * REACH);
    __syncthreads();
    if (row + W::STEP < at.bottom) fetch<T, W>(y, room.stage, s, at, row + W::STEP + 2 * REACH);
    // Before the rows that are met, and above the image, where f stays zero.
    const int last = row + W::STEP - 1;
    if (last + 2 * REACH < at.top || last + REACH < 0) continue;
#pragma unroll
    for (int i = 0; i < W::EACH; ++i) {
      const int c = own + i;
      const T* from = room.y + c * W::Y_PLANE;
      T* f = room.f + c * W::F_PLANE;
      const float* scalars = room.scalars + c * 8;
      const uint32_t* small = room.small + c * 2 * SMALL;
      if constexpr (W::EACH == 1 && W::SEGMENTS != 4) {
        filter_first<0, 2, T, W>(from, f, bands[i][0], small, scalars, s, at, row, place);
      } else {  // fewer sums at a time, for want of registers
        filter_first<2, 2, T, W>(from, f, bands[i][0], small, scalars, s, at, row, place);
        filter_first<0, 1, T, W>(from, f, bands[i][0], small, scalars, s, at, row, place);
      }
    }
    if (row < at.top) continue;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < W::EACH; ++i) {
      const int c = own + i;
      const T* f = room.f + c * W::F_PLANE;
      const float* bias = room.scalars + c * 8 + 3;
      T* out = room.out + c * W::OUT_PLANE;
      uint32_t of3[3][2];
      band_matrices_of_3(room.small + (c * 2 + 1) * SMALL, of3);
      filter_second<3, T, W>(f, out, of3, 1.f, bias[0], place);
      filter_second<5, T, W>(f, out, bands[i][1].of5, 1.f, bias[1], place);
      filter_second<7, T, W>(f, out, bands[i][1].of7, 1.f, bias[2], place);
    }
    __syncthreads();
    finish(row);
  }
}

}  // namespace aminet::rdfe
