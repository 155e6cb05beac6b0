// The depthwise convolutions of RDFE's front on tensor cores, for data of 16 bits.
// (header is written at the end)
#pragma once

#include "cuda/async.h"
#include "cuda/mma.h"
#include "cuda/rdfe_front_shared.cuh"

namespace aminet::rdfe {

constexpr int MARGIN = 4;  // columns of a window on either side of what it has outputs of; a kernel reaches 3
constexpr int VECTOR = 8;  // values of 16 bytes

// A window of 8 SEGMENTS columns of an image, of CHANNELS channels, EACH of which are a warp's own.
template <int SEGMENTS_, int CHANNELS_, int EACH_>
struct Window {
  static constexpr int SEGMENTS = SEGMENTS_, CHANNELS = CHANNELS_, EACH = EACH_;
  static constexpr int WARPS = CHANNELS / EACH, THREADS = WARPS * LANES;
  static constexpr int COLUMNS = 8 * SEGMENTS;
  static constexpr int TILE = 16 / SEGMENTS;           // rows of the 16 segments that a product takes
  static constexpr int TILES = SEGMENTS >= 4 ? 2 : 1;  // that share the rows they read
  static constexpr int STEP = TILES * TILE;            // rows that the window advances by
  static constexpr int LEAD = (2 * REACH + STEP - 1) / STEP * STEP;  // rows before the first one with outputs
  static constexpr int ROW = COLUMNS + 2 * MARGIN;
  static constexpr int Y_ROWS = STEP + 2 * REACH, Y_USED = Y_ROWS * ROW;
  // Planes are 4 words apart modulo 32, so that a store of two pixels of 8 channels meets every bank once.
  static constexpr int Y_PLANE = Y_USED + (72 - Y_USED % 64) % 64;
  __host__ __device__ static constexpr int f_rows(int branch) { return STEP + 2 * (branch + 1); }
  __host__ __device__ static constexpr int first_f(int branch) {
    return ((branch > 0 ? f_rows(0) : 0) + (branch > 1 ? f_rows(1) : 0)) * ROW;
  }
  static constexpr int F_PLANE = (f_rows(0) + f_rows(1) + f_rows(2)) * ROW;
  static constexpr int PIXELS = STEP * COLUMNS;   // of f' that a step gives
  static constexpr int OUT_PLANE = PIXELS + VECTOR;
  static constexpr int STAGE = STEP * ROW * CHANNELS;
  static constexpr int VALUES = STAGE + CHANNELS * (Y_PLANE + F_PLANE + BRANCHES * OUT_PLANE);
  static constexpr int SCALARS = CHANNELS * 8;  // floats: biases of both convolutions and a
  static constexpr int BYTES = VALUES * 2 + SCALARS * int(sizeof(float));
};

// Where a block is: columns from x on; outputs of columns `left` ... `right` - 1 of rows `top` ... `bottom` - 1.
struct View {
  int n, x, left, right, top, bottom, channel, held;
};

struct Views {
  int across, bands, rows, blocks;
  template <typename W>
  __device__ __forceinline__ View view(const Sizes& s, int block) const {
    const int channel = block % blocks * W::CHANNELS, window = block / blocks % across;
    const int band = block / (blocks * across) % bands, n = block / (blocks * across * bands);
    const int x = window * (W::COLUMNS - 2 * MARGIN);
    return {n,
            x,
            window == 0 ? 0 : x + MARGIN,
            x + W::COLUMNS >= s.width ? s.width : x + W::COLUMNS - MARGIN,
            band * rows,
            min((band + 1) * rows, s.height),
            channel,
            min(W::CHANNELS, s.channels - channel)};
  }
};

// What shared memory has.
template <typename T, typename W>
struct Room {
  T *stage, *y, *f, *out;  // [STEP][ROW][CHANNELS]; [CHANNELS][Y_PLANE], [F_PLANE]; [BRANCHES][CHANNELS][OUT_PLANE]
  float* scalars;          // [CHANNELS][bias, bias, bias, bias', bias', bias', a, -]
  __device__ __forceinline__ explicit Room(T* all)
      : stage(all),
        y(stage + W::STAGE),
        f(y + W::CHANNELS * W::Y_PLANE),
        out(f + W::CHANNELS * W::F_PLANE),
        scalars(reinterpret_cast<float*>(all + W::VALUES)) {}
};

template <typename T>
__device__ __forceinline__ uint32_t packed(float low, float high) {
  Vector<T, 2> pair;
  pair[0] = narrow<T>(low), pair[1] = narrow<T>(high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// A row of taps as the right operand [16 columns read, 8 columns of outputs]: tap i stands where the column read is i - K / 2
// away from the output's, and the first column read is MARGIN left of the first output.
template <typename T, typename Stored>
__device__ __forceinline__ void band_matrix(const void* weight, int64_t row, int size, bool there, uint32_t (&b)[2]) {
  const int lane = threadIdx.x % LANES, first = lane % 4 * 2 - lane / 4 - MARGIN + size / 2;
  const Stored* taps = static_cast<const Stored*>(weight) + row * size;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int tap = first + 8 * half;
    const auto at = [&](int i) { return there && i >= 0 && i < size ? widen(taps[i]) : 0.f; };
    b[half] = packed<T>(at(tap), at(tap + 1));
  }
}

struct Bands {
  uint32_t of3[3][2], of5[5][2], of7[7][2];

  template <typename T>
  __device__ __forceinline__ void make(const Depthwise& d, int64_t channel, bool there) {
    fill<T>(d.weight[0], channel, there, of3);
    fill<T>(d.weight[1], channel, there, of5);
    fill<T>(d.weight[2], channel, there, of7);
  }
  template <typename T, int SIZE>
  __device__ __forceinline__ static void fill(const Parameter& p, int64_t channel, bool there, uint32_t (&to)[SIZE][2]) {
    if (p.wide) {
#pragma unroll
      for (int i = 0; i < SIZE; ++i) band_matrix<T, float>(p.data, channel * SIZE + i, SIZE, there, to[i]);
    } else {
#pragma unroll
      for (int i = 0; i < SIZE; ++i) band_matrix<T, T>(p.data, channel * SIZE + i, SIZE, there, to[i]);
    }
  }
  template <int BRANCH>
  __device__ __forceinline__ const uint32_t (&row(int i) const)[2] {
    if constexpr (BRANCH == 0)
      return of3[i];
    else if constexpr (BRANCH == 1)
      return of5[i];
    else
      return of7[i];
  }
};

// The left operand [16 segments, 16 columns read]: TILE rows of a ring from `row` on, row counted from the ring's slot 0.
template <typename W, int ROWS, typename T>
__device__ __forceinline__ void load_segments(uint32_t (&a)[4], const T* ring, int row) {
  const int lane = threadIdx.x % LANES, position = lane % 16;
  const int slot = (row + position / W::SEGMENTS) % ROWS;
  load_matrices<4>(a, ring + slot * W::ROW + (position % W::SEGMENTS + lane / 16) * VECTOR);
}

// STEP rows of y from `row` on, pixels as they are in memory; zeros outside of the image.
template <typename T, typename W>
__device__ __forceinline__ void fetch(const T* y, T* stage, const Sizes& s, const View& at, int row) {
  constexpr int GROUPS = W::CHANNELS / VECTOR;
  const T* image = y + int64_t(at.n) * s.height * s.width * s.channels + at.channel;
  for (int i = threadIdx.x; i < W::STEP * W::ROW * GROUPS; i += W::THREADS) {
    const int r = row + i / (W::ROW * GROUPS), x = at.x - MARGIN + i / GROUPS % W::ROW, c = i % GROUPS * VECTOR;
    const bool inside = r >= 0 && r < s.height && x >= 0 && x < s.width && c < at.held;
    copy_async<16>(stage + i * VECTOR, inside ? image + (int64_t(r) * s.width + x) * s.channels + c : y, inside);
  }
  commit_async();
}

// Those rows to the ring of each channel; place: the first one's in rings.
template <typename T, typename W>
__device__ __forceinline__ void turn(const T* stage, T* y, int place) {
  constexpr int GROUPS = W::CHANNELS / VECTOR, OF_ROW = (W::SEGMENTS + 1) * GROUPS;
  const int lane = threadIdx.x % LANES;
  for (int i = threadIdx.x / LANES; i < W::STEP * OF_ROW; i += W::WARPS) {
    const int r = i / OF_ROW, chunk = i % OF_ROW / GROUPS, group = i % GROUPS;
    uint32_t pair[1];  // two pixels of channel lane / 4
    load_matrices<1, true>(pair, stage + ((r * W::ROW + chunk * 8 + lane % 8) * W::CHANNELS + group * VECTOR));
    T* to = y + (group * VECTOR + lane / 4) * W::Y_PLANE + (place + r) % W::Y_ROWS * W::ROW + chunk * 8 + lane % 4 * 2;
    *reinterpret_cast<uint32_t*>(to) = pair[0];
  }
}

// a f_k of one channel for the next STEP rows of each branch, which are behind y's by its reach; outside of the image 0.
// place: of y's first row, `row` of the image, in rings.
template <typename T, typename W>
__device__ __forceinline__ void filter_first(const T* y, T* f, const Bands& bands, const float* scalars, const Sizes& s,
                                             const View& at, int row, int place) {
  const int lane = threadIdx.x % LANES;
  float sums[W::TILES][BRANCHES][4] = {};
  uint32_t next[4];
  load_segments<W, W::Y_ROWS>(next, y, place);
#pragma unroll
  for (int i = 0; i < LARGEST + (W::TILES - 1) * W::TILE; ++i) {
    const uint32_t a[4] = {next[0], next[1], next[2], next[3]};
    if (i + 1 < LARGEST + (W::TILES - 1) * W::TILE) load_segments<W, W::Y_ROWS>(next, y, place + i + 1);
#pragma unroll
    for (int tile = 0; tile < W::TILES; ++tile) {
      const int tap = i - tile * W::TILE;
      if (tap >= 0 && tap < 7) mma<T>(sums[tile][2], a, bands.of7[tap]);
      if (tap >= 0 && tap < 5) mma<T>(sums[tile][1], a, bands.of5[tap]);
      if (tap >= 0 && tap < 3) mma<T>(sums[tile][0], a, bands.of3[tap]);
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
      for (int branch = 0; branch < BRANCHES; ++branch) {
        const int image_row = row + r + branch + 1;
        const bool inside = image_row >= 0 && image_row < s.height;
        const float bias = scalars[branch];
        const float low = inside && x < s.width ? (sums[tile][branch][2 * half] + bias) * scale : 0.f;
        const float high = inside && x + 1 < s.width ? (sums[tile][branch][2 * half + 1] + bias) * scale : 0.f;
        T* to = f + W::first_f(branch) + (place + r + branch + 1) % W::f_rows(branch) * W::ROW + MARGIN + column;
        *reinterpret_cast<uint32_t*>(to) = packed<T>(low, high);
      }
    }
}

// f' of one channel and branch, STEP rows; place: of the first one in rings.
template <int BRANCH, typename T, typename W>
__device__ __forceinline__ void filter_second(const T* f, T* out, const Bands& bands, float bias, int place) {
  constexpr int SIZE = kernel_of(BRANCH), READ = SIZE + (W::TILES - 1) * W::TILE, ROWS = W::f_rows(BRANCH);
  const int lane = threadIdx.x % LANES;
  const T* ring = f + W::first_f(BRANCH);
  float sums[W::TILES][4] = {};
  uint32_t next[4];
  place += ROWS - SIZE / 2;
  load_segments<W, ROWS>(next, ring, place);
#pragma unroll
  for (int i = 0; i < READ; ++i) {
    const uint32_t a[4] = {next[0], next[1], next[2], next[3]};
    if (i + 1 < READ) load_segments<W, ROWS>(next, ring, place + i + 1);
#pragma unroll
    for (int tile = 0; tile < W::TILES; ++tile) {
      const int tap = i - tile * W::TILE;
      if (tap >= 0 && tap < SIZE) mma<T>(sums[tile], a, bands.template row<BRANCH>(tap));
    }
  }
#pragma unroll
  for (int tile = 0; tile < W::TILES; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = lane / 4 + 8 * half;
      T* to = out + (tile * 16 + position) * 8 + lane % 4 * 2;  // segments follow each other, row after row
      *reinterpret_cast<uint32_t*>(to) = packed<T>(sums[tile][2 * half] + bias, sums[tile][2 * half + 1] + bias);
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
  // f_k beside and above the image.
  uint32_t* f = reinterpret_cast<uint32_t*>(room.f);
  for (int i = threadIdx.x; i < W::CHANNELS * W::F_PLANE / 2; i += W::THREADS) f[i] = 0;
}

// Walks a block's window from top to bottom; finish(row) by all threads where room.out has f' of STEP rows.
template <typename T, typename W, typename Finish>
__device__ __forceinline__ void walk(const T* y, const float* a, const Depthwise& first, const Depthwise& second,
                                     const Sizes& s, const View& at, const Room<T, W>& room, Finish finish) {
  const int own = threadIdx.x / LANES * W::EACH;  // a warp's channels
  const int start = at.top - 2 * W::LEAD;
  fetch<T, W>(y, room.stage, s, at, start + 2 * REACH);
  Bands bands[W::EACH][2];
#pragma unroll
  for (int i = 0; i < W::EACH; ++i) {
    bands[i][0].template make<T>(first, at.channel + own + i, own + i < at.held);
    bands[i][1].template make<T>(second, at.channel + own + i, own + i < at.held);
  }
  prepare<T, W>(room, a, first, second, s, at);
  for (int row = start; row < at.bottom; row += W::STEP) {
    const int place = row - start;
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
      filter_first<T, W>(room.y + c * W::Y_PLANE, room.f + c * W::F_PLANE, bands[i][0], room.scalars + c * 8, s, at,
                         row, place);
    }
    if (row < at.top) continue;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < W::EACH; ++i) {
      const int c = own + i;
      const T* f = room.f + c * W::F_PLANE;
      const float* bias = room.scalars + c * 8 + 3;
      T* out = room.out + c * W::OUT_PLANE;
      filter_second<0, T, W>(f, out, bands[i][1], bias[0], place);
      filter_second<1, T, W>(f, out + W::CHANNELS * W::OUT_PLANE, bands[i][1], bias[1], place);
      filter_second<2, T, W>(f, out + 2 * W::CHANNELS * W::OUT_PLANE, bands[i][1], bias[2], place);
    }
    __syncthreads();
    finish(row);
  }
}

}  // namespace aminet::rdfe
