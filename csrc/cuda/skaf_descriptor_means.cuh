// What every channel's weights get from dmean: sums over all pixels q of dmean[q - d] * x[q], taps by channels of x.
#pragma once

#include "cuda/mma.h"
#include "cuda/skaf_descriptor.cuh"

namespace aminet::skaf {

constexpr int kSegment = 64;  // pixels of a row that are correlated at a time, in float32
constexpr int kStrip = 32;    // in 16 bits, by a warp
constexpr int kStripWarps = 4;
constexpr int kStripTaps = 64, kStripVectors = 3, kStripChannels = kStripVectors * kVector;
constexpr int kStripRow = kStrip + 8;  // of the gradients in reach: room for the halo, an even number

// Both write parts [blocks][taps * padded + 1]: the sums, and that of dmean.
__host__ __device__ inline int correlation_length(const Convs& convs) { return convs.taps * convs.padded + 1; }

// float32: a thread has a row of taps and a channel.
template <typename T>
__global__ void __launch_bounds__(256) correlate_kernel(const T* x, const T* dm, float* parts, Image at, Convs convs) {
  constexpr int kSpread = kSegment + kMostWindow - 1;
  AMINET_SHARED(float, means, [kMostWindow][kSpread]);
  const int radius = convs.window / 2, item = blockIdx.y * blockDim.x + threadIdx.x;
  const int tap_y = item / convs.padded, c = item % convs.padded;
  const int segments = ceil_div(at.width, kSegment);
  float acc[kMostWindow] = {}, sum = 0.f;
  for (int64_t i = blockIdx.x; i < at.images * at.height * segments; i += gridDim.x) {
    const int64_t row = i / segments, image = row / at.height;
    const int y = static_cast<int>(row % at.height), first = static_cast<int>(i % segments) * kSegment;
    __syncthreads();
    for (int k = threadIdx.x; k < convs.window * kSpread; k += blockDim.x) {
      const int from = y - (k / kSpread - radius), px = first + k % kSpread - radius;
      const bool inside = from >= 0 && from < at.height && px >= 0 && px < at.width;
      means[k / kSpread][k % kSpread] = inside ? widen(dm[image * 2 * at.area() + from * at.width + px]) : 0.f;
    }
    __syncthreads();
    if (tap_y >= convs.window || c >= convs.inputs) continue;
    const int count = min(kSegment, at.width - first);
    const T* from = x + (row * at.width + first) * convs.inputs + c;
#pragma unroll 4
    for (int p = 0; p < count; ++p) {
      const float value = widen(from[static_cast<int64_t>(p) * convs.inputs]);
#pragma unroll
      for (int j = 0; j < kMostWindow; ++j)
        if (j < convs.window) acc[j] += means[tap_y][p + 2 * radius - j] * value;
      sum += means[tap_y][p + radius];
    }
  }
  if (tap_y >= convs.window) return;
  float* to = parts + blockIdx.x * static_cast<int64_t>(correlation_length(convs));
#pragma unroll
  for (int j = 0; j < kMostWindow; ++j)
    if (j < convs.window) to[(tap_y * convs.window + j) * convs.padded + c] = acc[j];
  if (tap_y == radius && c == 0) to[correlation_length(convs) - 1] = sum;
}

// A strip of 32 pixels of a row for one warp: gradients in reach, and 24 channels of the pixels.
template <typename T>
struct alignas(16) Strip {
  // Twice, the second time moved by one: two neighbours are then one aligned word, wherever they are.
  T means[2][kMostWindow][kStripRow];
  T x[kStrip][kStripChannels];

  // i: of all strips; outside of the image, and beyond the row's end, are zeros.
  __device__ __forceinline__ void fill(const T* image_x, const T* dm, const Image& at, const Convs& convs, int64_t row,
                                       int first, int first_c) {
    const int lane = threadIdx.x % 32, radius = convs.window / 2, width = kStrip + 2 * radius;
    const int64_t image = row / at.height;
    const int y = static_cast<int>(row % at.height);
    for (int i = lane; i < convs.window * width; i += 32) {
      const int tap_y = i / width, column = i % width, from = y - (tap_y - radius), px = first + column - radius;
      const bool inside = from >= 0 && from < at.height && px >= 0 && px < at.width;
      const T value = inside ? dm[image * 2 * at.area() + from * at.width + px] : narrow<T>(0.f);
      means[0][tap_y][column] = value;
      if (column > 0) means[1][tap_y][column - 1] = value;
    }
    const T* from = image_x + (row * at.width + first) * convs.inputs + first_c;
    for (int i = lane; i < kStrip * kStripVectors; i += 32) {
      const int pixel = i / kStripVectors, c = i % kStripVectors * kVector;
      const bool inside = first + pixel < at.width && first_c + c < convs.inputs;
      T* to = &x[pixel][c];
      const T* at_x = from + (inside ? pixel * convs.inputs + c : 0);
      if (convs.inputs % kVector == 0) {
        copy_async<16>(to, at_x, inside);
      } else {
#pragma unroll
        for (int j = 0; j < kVector; ++j)
          to[j] = inside && first_c + c + j < convs.inputs ? at_x[j] : narrow<T>(0.f);
      }
    }
    commit_async();
  }
};

// 16 bits: taps x pixels times pixels x 24 channels on tensor cores, a strip of pixels a warp and a turn.
template <typename T>
__global__ void __launch_bounds__(32 * kStripWarps)
    strips_kernel(const T* x, const T* dm, float* parts, Image at, Convs convs) {
  AMINET_SHARED(Strip<T>, strips, [kStripWarps]);
  AMINET_SHARED(float, sums, [kStripWarps][16 * kStripChannels]);
  AMINET_SHARED(float, totals, [kStripWarps]);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, four = lane % 4;
  const int first_c = blockIdx.y * kStripChannels, radius = convs.window / 2, each = ceil_div(at.width, kStrip);
  Strip<T>& strip = strips[warp];
  int place[kStripTaps / 8];  // of the lane's taps: where in `means` the strip's first two pixels' gradients are
#pragma unroll
  for (int i = 0; i < kStripTaps / 8; ++i) {
    const int tap = min(8 * i + group, convs.taps - 1), column = 2 * radius - tap % convs.window;
    place[i] = ((column % 2) * kMostWindow + tap / convs.window) * kStripRow + column / 2 * 2 + 2 * four;
  }
  float acc[kStripTaps / 16][kStripVectors][4] = {}, total = 0.f;
  for (int64_t i = blockIdx.x * kStripWarps + warp; i < at.images * at.height * each; i += gridDim.x * kStripWarps) {
    __syncwarp();
    strip.fill(x, dm, at, convs, i / each, static_cast<int>(i % each) * kStrip, first_c);
    wait_async<0>();
    __syncwarp();
    total += widen(strip.means[0][radius][radius + lane]);
#pragma unroll
    for (int k = 0; k < kStrip; k += 16) {
      uint32_t b[kStripVectors][2];
#pragma unroll
      for (int j = 0; j < kStripVectors; ++j) load_matrices<2, true>(b[j], &strip.x[k + lane % 16][8 * j]);
#pragma unroll
      for (int m = 0; m < kStripTaps / 16; ++m) {
        uint32_t a[4];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          __builtin_memcpy(&a[e], &strip.means[0][0][0] + place[2 * m + e % 2] + k + e / 2 * 8, 4);
#pragma unroll
        for (int j = 0; j < kStripVectors; ++j) mma<T>(acc[m][j], a, b[j]);
      }
    }
  }
  total = warp_sum(total);
  if (lane == 0) totals[warp] = total;
  float* to = parts + blockIdx.x * static_cast<int64_t>(correlation_length(convs));
#pragma unroll
  for (int m = 0; m < kStripTaps / 16; ++m) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kStripVectors; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        sums[warp][(group + e / 2 * 8) * kStripChannels + 8 * j + 2 * four + e % 2] = acc[m][j][e];
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * kStripChannels; i += 32 * kStripWarps) {
      const int tap = 16 * m + i / kStripChannels, c = first_c + i % kStripChannels;
      float sum = sums[0][i];
#pragma unroll
      for (int w = 1; w < kStripWarps; ++w) sum += sums[w][i];
      if (tap < convs.taps && c < convs.padded) to[tap * convs.padded + c] = sum;
    }
  }
  if (threadIdx.x == 0 && blockIdx.y == 0) {
    float sum = totals[0];
#pragma unroll
    for (int w = 1; w < kStripWarps; ++w) sum += totals[w];
    to[correlation_length(convs) - 1] = sum;
  }
}

}  // namespace aminet::skaf
