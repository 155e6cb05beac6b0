// What a block of the kernels on tensor cores has of an image, and how y comes into it; rdfe_front_bands.cuh computes.
//
// A window is 8 SEGMENTS columns wide and walks down a band of rows, STEP rows at a time. Rings in shared memory keep of y
// the rows that the next rows of f_k meet and of f_k those that the next rows of f' meet, so that down a band nothing is
// filtered twice; across, windows overlap by 2 MARGIN columns where an image is wider than one:
//
//      image row         y: one ring a channel       f_3, f_5, f_7: one ring a channel and branch
//        row - 3  . .                                 f_7  |                    |
//        row          |--------------------|          f_k  |  f' of these rows  |   STEP rows are finished
//        row + 3      |  y of f_7's rows   |          f_7  |  new rows of f_7   |
//        row + 6      |====================|  <- new rows of y, turned from pixels to channels
//             columns x - 4 ... x + COLUMNS + 3       the image's columns, and 4 of zeros (or of nobody's) on either side
//
// A channel's rings are read and written by one warp only: between y and f' a block has no barrier.
#pragma once

#include "cuda/async.h"
#include "cuda/mma.h"
#include "cuda/rdfe_front_shared.cuh"

namespace aminet::rdfe {

constexpr int MARGIN = 4;  // columns of a window on either side of what it has outputs of; a kernel reaches 3
constexpr int VECTOR = 8;  // values of 16 bytes
constexpr int PAIRS_OF_3 = 4, SMALL = 3 * PAIRS_OF_3;  // pairs of taps in 3 rows

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
  static constexpr int BYTES = VALUES * 2 + (SCALARS + CHANNELS * 2 * SMALL) * 4;
};

// Where a block is: columns from x on; outputs of rows `top` ... `bottom` - 1.
struct View {
  int n, x, top, bottom, channel, held;

  // Whether a column's outputs are this window's: neighbours have those near its ends, unless the image ends there.
  template <typename W>
  __device__ __forceinline__ bool owns(int column, int width) const {
    return column < width && (column >= x + MARGIN || x == 0) &&
           (column < x + W::COLUMNS - MARGIN || x + W::COLUMNS >= width);
  }
};

struct Views {
  int across, bands, rows, blocks;
  template <typename W>
  __device__ __forceinline__ View view(const Sizes& s, int block) const {
    const int channel = block % blocks * W::CHANNELS, window = block / blocks % across;
    const int band = block / (blocks * across) % bands, n = block / (blocks * across * bands);
    const int x = window * (W::COLUMNS - 2 * MARGIN);
    return {n, x, band * rows, min((band + 1) * rows, s.height), channel, min(W::CHANNELS, s.channels - channel)};
  }
};

// What shared memory has.
template <typename T, typename W>
struct Room {
  T *stage, *y, *f, *out;  // [STEP][ROW][CHANNELS]; [CHANNELS][Y_PLANE], [F_PLANE]; [BRANCHES][CHANNELS][OUT_PLANE]
  float* scalars;          // [CHANNELS][a bias, a bias, a bias, bias', bias', bias', a, -]
  uint32_t* small;         // [CHANNELS][2][SMALL]
  __device__ __forceinline__ explicit Room(T* all)
      : stage(all),
        y(stage + W::STAGE),
        f(y + W::CHANNELS * W::Y_PLANE),
        out(f + W::CHANNELS * W::F_PLANE),
        scalars(reinterpret_cast<float*>(all + W::VALUES)),
        small(reinterpret_cast<uint32_t*>(scalars + W::SCALARS)) {}
};

template <typename T>
__device__ __forceinline__ uint32_t packed(float low, float high) {
  Vector<T, 2> pair;
  pair[0] = narrow<T>(low), pair[1] = narrow<T>(high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// STEP rows of y from `row` on, pixels as they are in memory; zeros outside of the image.
template <typename T, typename W>
__device__ __forceinline__ void fetch(const T* y, T* stage, const Sizes& s, const View& at, int row) {
  const T* image = y + int64_t(at.n) * s.height * s.width * s.channels + at.channel;
  const bool vectors = s.channels % VECTOR == 0;
  const int each = vectors ? VECTOR : 1, groups = W::CHANNELS / each;
#pragma unroll 1
  for (int i = threadIdx.x; i < W::STEP * W::ROW * groups; i += W::THREADS) {
    const int r = row + i / (W::ROW * groups), x = at.x - MARGIN + i / groups % W::ROW, c = i % groups * each;
    const bool inside = r >= 0 && r < s.height && x >= 0 && x < s.width && c < at.held;
    const T* from = inside ? image + (int64_t(r) * s.width + x) * s.channels + c : y;
    if (vectors)
      copy_async<16>(stage + i * VECTOR, from, inside);
    else
      stage[i] = inside ? *from : narrow<T>(0.f);
  }
  commit_async();
}

// Those rows to the ring of each channel; place: the first one's in rings.
template <typename T, typename W>
__device__ __forceinline__ void turn(const T* stage, T* y, int place) {
  constexpr int GROUPS = W::CHANNELS / VECTOR, OF_ROW = (W::SEGMENTS + 1) * GROUPS;
  const int lane = threadIdx.x % LANES;
#pragma unroll 1
  for (int i = threadIdx.x / LANES; i < W::STEP * OF_ROW; i += W::WARPS) {
    const int r = i / OF_ROW, chunk = i % OF_ROW / GROUPS, group = i % GROUPS;
    uint32_t pair[1];  // two pixels of channel lane / 4
    load_matrices<1, true>(pair, stage + ((r * W::ROW + chunk * 8 + lane % 8) * W::CHANNELS + group * VECTOR));
    T* to = y + (group * VECTOR + lane / 4) * W::Y_PLANE + (place + r) % W::Y_ROWS * W::ROW + chunk * 8 + lane % 4 * 2;
    *reinterpret_cast<uint32_t*>(to) = pair[0];
  }
}

}  // namespace aminet::rdfe
