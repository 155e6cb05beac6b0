// skaf_descriptor's forward on tensor cores, in 16 bits or of floats as tf32: both convolutions as one implicit GEMM,
// pooled in its epilogue.
//
// A block makes WM * MT rows of 16 pixels and, of each convolution, WN * NT / 2 * 8 channels. A warp's columns are half
// of the smaller, half of the larger convolution, so that all warps skip the same work: the taps inside of the smaller
// window come first and are of all columns, those around it are of the larger convolution's alone.
//
//     shared memory   tile [2][16-row + halo][16 + halo][kUnits (made odd)] units of 16 bytes: 48 channels at a time, or
//                     24 of float
//                     stages [3][columns][kStage + 1] units of weights
//                     table: what each unit of the sum is, tap and channels; odd strides keep ldmatrix free of conflicts
//
// An mma takes two units of 16 bits, 8 + 8 channels, or two of float, 4 + 4: fragments and their loads are the same.
// Tensor cores drop what tf32 has not, so floats are rounded before: weights as they are packed, the tile in its place.
#pragma once

#include <algorithm>

#include "cuda/mma.h"
#include "cuda/skaf_descriptor_pool.cuh"

namespace aminet::skaf {

constexpr int kTileWidth = 16;   // of pixels, a row of an mma's
constexpr int kChunkUnits = 6;   // that the tile holds of a pixel at most
constexpr int kStage = 8;        // units of a stage: four mma deep
constexpr int kStages = 3;
constexpr int kUnitBytes = 16;

template <typename T>
constexpr int kUnit = kUnitBytes / sizeof(T);  // channels of a unit

// The sum's units: `inner` of all taps in reach of both convolutions, then `outer`, each filled up to whole stages.
struct Sums {
  int small, large;  // the convolutions; small < 0: there is none
  int units;         // of a chunk's channels
  int stride;        // of a pixel in the tile, in units
  int chunks;
  int inner, outer;  // stages
  int taps_inside, table;  // their number; entries
};

// unit: channels of one.
inline Sums sums_of(const Convs& convs, int unit) {
  Sums s = {};
  s.large = convs.count > 1 && convs.size[1] >= convs.size[0] ? 1 : 0;
  s.small = convs.count > 1 ? 1 - s.large : -1;
  const int all = convs.padded / unit;
  s.units = std::min(all, kChunkUnits);
  s.stride = s.units | 1;
  s.chunks = ceil_div(all, s.units);
  const int size = s.small < 0 ? 0 : convs.size[s.small];
  s.taps_inside = size * size;
  s.inner = ceil_div(s.taps_inside * s.units, kStage);
  s.outer = ceil_div((convs.taps - s.taps_inside) * s.units, kStage);
  s.table = (s.inner + s.outer) * kStage;
  return s;
}

template <int WM, int WN, int WK, int MT, int NT>
struct Shape {
  static constexpr int threads = 32 * WM * WN * WK;
  static constexpr int rows = WM * MT;           // of 16 pixels
  static constexpr int columns = WN * NT * 8;
  static constexpr int each = WN * NT / 2 * 8;   // of one convolution
  static constexpr int stage_units = columns * (kStage + 1);

  static int tile_units(const Convs& convs, const Sums& s) {
    return (rows + convs.window - 1) * (kTileWidth + convs.window - 1) * s.stride;
  }
  // What is left in the stages' place at the end: pools, and before them the sums of warps that share a tile.
  static constexpr int pool_bytes = rows * kTileWidth * WN * 12;
  static constexpr int part_bytes = WM * WN * (WK - 1) * MT * NT * 512;
  static constexpr int ring_bytes =
      std::max(kStages * stage_units * kUnitBytes, ceil_div(pool_bytes, kUnitBytes) * kUnitBytes + part_bytes);

  static int64_t bytes(const Convs& convs, const Sums& s) {
    const int64_t tiles = static_cast<int64_t>(tile_units(convs, s)) * (s.chunks > 1 ? 2 : 1);
    return tiles * kUnitBytes + ring_bytes + s.table * sizeof(uint32_t);
  }
};

// Entry of the table: the unit's place in the tile (16 bits), its tap (8), its channels' unit in the chunk (8).
__device__ __forceinline__ uint32_t entry_of(const Convs& convs, const Sums& s, int i) {
  const bool inside = i < s.inner * kStage;
  const int taps = inside ? s.taps_inside : convs.taps - s.taps_inside;
  const int v = inside ? i : i - s.inner * kStage;
  const bool there = v < taps * s.units;
  const int number = there ? v / s.units : taps - 1, unit = there ? v % s.units : s.units - 1;
  const int size = s.small < 0 ? 0 : either(convs.size, s.small), inset = (convs.window - size) / 2;
  int tap = number;  // the ring's: rows above, then what is left and right, then rows below
  if (inside) {
    tap = (number / size + inset) * convs.window + number % size + inset;
  } else if (size > 0 && number >= inset * convs.window) {
    const int beside = number - inset * convs.window, of_row = beside % (2 * inset);
    tap = beside < 2 * inset * size
              ? (beside / (2 * inset) + inset) * convs.window + of_row + (of_row < inset ? 0 : size)
              : number + s.taps_inside;
  }
  const int place = (tap / convs.window * (kTileWidth + convs.window - 1) + tap % convs.window) * s.stride + unit;
  // What fills a stage up reads some of the same convolution's pixels, times weights of zero.
  return static_cast<uint32_t>(place) | static_cast<uint32_t>(there ? tap : 255) << 16 |
         static_cast<uint32_t>(unit) << 24;
}

// A block's tile: channels of units from chunk * units on, zeros outside of the image and beyond the last channel.
template <typename T>
__device__ __forceinline__ void load_tile(unsigned char* tile, const T* image, const Image& at, const Convs& convs,
                                          const Sums& s, int chunk, int first_y, int first_x, int rows) {
  const int radius = convs.window / 2, width = kTileWidth + 2 * radius, lane = threadIdx.x % 32;
  const bool whole = convs.inputs % kUnit<T> == 0;
  const int inverse = 65536 / s.units + 1;  // dividing by units costs more than all else here
  for (int row = threadIdx.x / 32; row < rows + 2 * radius; row += blockDim.x / 32) {
    const int y = first_y - radius + row;
    const bool row_inside = y >= 0 && y < at.height;
    const T* row_from = image + static_cast<int64_t>(row_inside ? y : 0) * at.width * convs.inputs;
    for (int i = lane; i < width * s.units; i += 32) {
      const int pixel = i * inverse >> 16, unit = i - pixel * s.units;
      const int x = first_x - radius + pixel, c = (chunk * s.units + unit) * kUnit<T>;
      const bool inside = row_inside && x >= 0 && x < at.width && c < convs.inputs;
      unsigned char* to = tile + ((row * width + pixel) * s.stride + unit) * kUnitBytes;
      const T* from = inside ? row_from + x * convs.inputs + c : image;
      if (whole) {
        copy_async<kUnitBytes>(to, from, inside);
      } else {
        Vector<T, kUnit<T>> v;
#pragma unroll
        for (int j = 0; j < kUnit<T>; ++j) v[j] = inside && c + j < convs.inputs ? from[j] : narrow<T>(0.f);
        store(reinterpret_cast<T*>(to), v);
      }
    }
  }
}

// Floats of a tile to tf32, and what is between them. All of the block come along, after a barrier and before one.
__device__ __forceinline__ void round_tile(unsigned char* tile, int bytes) {
#pragma unroll 1  // a thread's sums leave it few registers
  for (int at = threadIdx.x * kUnitBytes; at < bytes; at += blockDim.x * kUnitBytes) {
    Vector<float, 4> v = load<4>(reinterpret_cast<const float*>(tile + at));
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __uint_as_float(to_tf32(v[j]));
    store(reinterpret_cast<float*>(tile + at), v);
  }
}

template <typename T, int WM, int WN, int WK, int MT, int NT>
struct Multiply {
  using Product = std::conditional_t<std::is_same_v<T, float>, Tf32, T>;
  using S = Shape<WM, WN, WK, MT, NT>;
  static constexpr int kCopies = ceil_div(S::columns * kStage, S::threads);

  float acc[MT][NT][4];
  int rows_at[kCopies];  // of this thread's columns: where their weights begin, -1 where there is no channel

  // Columns of a warp: NT / 2 * 8 of the larger convolution, as many of the smaller.
  static __device__ __forceinline__ int channel_of(const Convs& convs, const Sums& s, int group, int warp, int column) {
    constexpr int half = NT / 2 * 8;
    const int conv = column < half ? s.large : s.small, o = group * S::each + warp * half + column % half;
    return conv >= 0 && o < convs.outputs(conv) ? convs.begin(conv) + o : -1;
  }

  __device__ __forceinline__ void begin(const Convs& convs, const Sums& s, int group) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int column = (threadIdx.x + i * S::threads) / kStage;
      const int channel = channel_of(convs, s, group, column / (NT * 8), column % (NT * 8));
      rows_at[i] = column < S::columns && channel >= 0 ? channel * convs.taps * convs.padded : -1;
    }
#pragma unroll
    for (int i = 0; i < MT * NT * 4; ++i) acc[i / (NT * 4)][i / 4 % NT][i % 4] = 0.f;
  }

  // Of stage r of a chunk, on the way to shared memory.
  __device__ __forceinline__ void load_stage(unsigned char* to, const T* packed, const uint32_t* table,
                                             const Convs& convs, const Sums& s, int chunk, int r) const {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int copy = threadIdx.x + i * S::threads, column = copy / kStage, u = copy % kStage;
      if (column >= S::columns || (r >= s.inner && column % (NT * 8) >= NT * 4)) continue;
      const uint32_t entry = table[r * kStage + u];
      const int tap = entry >> 16 & 255, c = (chunk * s.units + static_cast<int>(entry >> 24)) * kUnit<T>;
      const bool there = rows_at[i] >= 0 && tap != 255 && c < convs.padded;
      copy_async<kUnitBytes>(to + (column * (kStage + 1) + u) * kUnitBytes,
                             packed + (there ? rows_at[i] + tap * convs.padded + c : 0), there);
    }
  }

  // TILES: columns that take part, by the eight.
  template <int TILES>
  __device__ __forceinline__ void stage(const unsigned char* tile, const unsigned char* weights, const uint32_t* table,
                                        int row_units, int warp_k) {
    const int lane = threadIdx.x % 32;
#pragma unroll 2
    for (int step = 0; step < kStage / 2 / WK; ++step) {
      const int k = 2 * (step * WK + warp_k);
      uint32_t b[NT][2];
#pragma unroll
      for (int j = 0; j < TILES; j += 2) {
        const unsigned char* row =
            weights + ((8 * j + lane / 16 * 8 + lane % 8) * (kStage + 1) + k + lane / 8 % 2) * kUnitBytes;
        if (j + 1 < TILES) {
          uint32_t four[4];
          load_matrices(four, row);
          b[j][0] = four[0], b[j][1] = four[1], b[j + 1][0] = four[2], b[j + 1][1] = four[3];
        } else {
          load_matrices(b[j], row);
        }
      }
      const int place = table[k + lane / 16] & 0xffff;
#pragma unroll
      for (int i = 0; i < MT; ++i) {
        uint32_t a[4];
        load_matrices(a, tile + (i * row_units + place) * kUnitBytes);
#pragma unroll
        for (int j = 0; j < TILES; ++j) mma<Product>(acc[i][j], a, b[j]);
      }
    }
  }
};

}  // namespace aminet::skaf
