// Gradient of skaf_descriptor's x: dx[q] = sum over taps d of
//     dmax[q - d] * W[argmax[q - d], d] + dmean[q - d] * (mean of all channels' W)[d]
//
// A block makes 24 channels of 16 x 8 pixels, a thread eight of a pixel. The second part is a product [pixels, taps] x
// [taps, 24] first, in 16 bits on tensor cores; the first part gathers, tap after tap, a run of eight weights of the
// channel that was the pixel's maximum. What pixels in reach gave is in shared memory, weights are in caches.
#pragma once

#include "cuda/mma.h"
#include "cuda/skaf_descriptor.cuh"

namespace aminet::skaf {

constexpr int kInputWidth = 16, kInputHeight = 8, kInputPixels = kInputWidth * kInputHeight;
constexpr int kInputVectors = 3, kInputChannels = kInputVectors * kVector;
constexpr int kInputThreads = kInputPixels * kInputVectors;
constexpr int kInputSpread = (kInputWidth + kMostWindow - 1) * (kInputHeight + kMostWindow - 1);
constexpr int kInputTaps = 64;                    // the window's, filled up to four products of 16
constexpr int kInputRow = kInputTaps + 8;         // of a channel's mean weights: rows in different banks
constexpr int kInputSum = kInputChannels + 4;     // of a pixel's sums

// What a pixel's maximum gives: where its channel's weights begin, their reach in the lowest bits; and its gradient.
struct alignas(8) Given {
  int run;
  float gain;
};

// sums [pixels][kInputSum] = the second part, a row of 16 pixels a warp. weights: [channels][kInputRow].
template <typename T>
__device__ __forceinline__ void multiply_means(float* sums, const T* means, const T* weights, const Convs& convs,
                                               int width) {
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, four = threadIdx.x % 4, radius = convs.window / 2;
  const T* row = means + (warp + 2 * radius) * width + 2 * radius + group;
  float acc[kInputVectors][4] = {};
#pragma unroll
  for (int k = 0; k < kInputTaps; k += 16) {
    uint32_t a[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const T* from[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int tap = min(k + 8 * half + 2 * four + e, convs.taps - 1);  // beyond, weights are zero
        from[e] = row - tap / convs.window * width - tap % convs.window;
      }
      const Vector<T, 2> upper = {from[0][0], from[1][0]}, lower = {from[0][8], from[1][8]};
      __builtin_memcpy(&a[2 * half], &upper, sizeof upper);
      __builtin_memcpy(&a[2 * half + 1], &lower, sizeof lower);
    }
#pragma unroll
    for (int j = 0; j < kInputVectors; ++j) {
      const T* column = weights + (8 * j + group) * kInputRow + k + 2 * four;
      uint32_t b[2];
      __builtin_memcpy(&b[0], column, 4);
      __builtin_memcpy(&b[1], column + 8, 4);
      mma<T>(acc[j], a, b);
    }
  }
#pragma unroll
  for (int j = 0; j < kInputVectors; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      sums[(warp * 16 + group + e / 2 * 8) * kInputSum + 8 * j + 2 * four + e % 2] = acc[j][e];
}

template <typename T>
__global__ void __launch_bounds__(kInputThreads, 2)
    input_kernel(const T* dm, const int* argmax, const T* packed, const float* mean, T* dx, Image at, Convs convs) {
  constexpr bool kHalf = sizeof(T) == 2;
  AMINET_SHARED(Given, given, [kInputSpread]);
  AMINET_SHARED(T, means, [kInputSpread]);
  AMINET_SHARED(T, mean_weights, [kHalf ? kInputChannels * kInputRow : 8]);
  AMINET_SHARED(float, sums, [kHalf ? kInputPixels * kInputSum : 4]);
  const int radius = convs.window / 2, width = kInputWidth + 2 * radius, area = at.area();
  const int across = ceil_div(at.width, kInputWidth), down = ceil_div(at.height, kInputHeight);
  const int first_x = static_cast<int>(blockIdx.x % across) * kInputWidth;
  const int first_y = static_cast<int>(blockIdx.x / across % down) * kInputHeight;
  const int64_t image = blockIdx.x / across / down;
  const int length = convs.taps * convs.padded, first_c = blockIdx.y * kInputChannels;
  dm += image * 2 * area;
  argmax += image * area;
  for (int i = threadIdx.x; i < width * (kInputHeight + 2 * radius); i += kInputThreads) {
    const int y = first_y - radius + i / width, x = first_x - radius + i % width, p = y * at.width + x;
    const bool inside = y >= 0 && y < at.height && x >= 0 && x < at.width;
    const int channel = inside ? argmax[p] : 0;
    given[i] = {channel * length | convs.reach(channel), inside ? widen(dm[area + p]) : 0.f};
    means[i] = inside ? dm[p] : narrow<T>(0.f);
  }
  const int pixel = threadIdx.x / kInputVectors, vector = threadIdx.x % kInputVectors;
  float acc[kVector] = {};
  if constexpr (kHalf) {
    for (int i = threadIdx.x; i < kInputChannels * kInputTaps; i += kInputThreads) {
      const int c = i % kInputChannels, tap = i / kInputChannels;
      const bool there = tap < convs.taps && first_c + c < convs.padded;
      mean_weights[c * kInputRow + tap] = narrow<T>(there ? mean[tap * convs.padded + first_c + c] : 0.f);
    }
    __syncthreads();
    if (threadIdx.x < kInputHeight * 32) multiply_means(sums, means, mean_weights, convs, width);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kVector; ++j) acc[j] = sums[pixel * kInputSum + vector * kVector + j];
  } else {
    __syncthreads();
  }

  const int c = first_c + vector * kVector;
  const int y = first_y + pixel / kInputWidth, x = first_x + pixel % kInputWidth;
  if (y >= at.height || x >= at.width || c >= convs.padded) return;
  packed += c;
  mean += c;
  constexpr int kWide = 16 / sizeof(T);
  for (int tap_y = 0; tap_y < convs.window; ++tap_y) {
    // dx[q] takes from q - d: the window turned around.
    const int from = (pixel / kInputWidth + 2 * radius - tap_y) * width + pixel % kInputWidth + 2 * radius;
#pragma unroll
    for (int tap_x = 0; tap_x < kMostWindow; ++tap_x) {
      if (tap_x >= convs.window) break;
      const int tap = tap_y * convs.window + tap_x;
      const Given g = given[from - tap_x];
      if constexpr (!kHalf) {
        const float all = means[from - tap_x];
#pragma unroll
        for (int j = 0; j < kVector; j += kWide) {
          const auto w = load<kWide>(mean + tap * convs.padded + j);
#pragma unroll
          for (int e = 0; e < kWide; ++e) acc[j + e] += all * w[e];
        }
      }
      if (ring_of(tap, convs.window) > (g.run & (kVector - 1))) continue;
      const T* run = packed + (g.run & -kVector) + tap * convs.padded;
#pragma unroll
      for (int j = 0; j < kVector; j += kWide) {
        float w[kWide];
        widen_all(w, load<kWide>(run + j));
#pragma unroll
        for (int e = 0; e < kWide; ++e) acc[j + e] += g.gain * w[e];
      }
    }
  }
  T* to = dx + (image * area + y * at.width + x) * convs.inputs + c;
#pragma unroll
  for (int j = 0; j < kVector; j += kWide) {
    Vector<T, kWide> out;
#pragma unroll
    for (int e = 0; e < kWide; ++e) out[e] = narrow<T>(acc[j + e]);
    if (convs.inputs % kVector == 0) {
      store(to + j, out);
    } else {
#pragma unroll
      for (int e = 0; e < kWide; ++e)
        if (c + j + e < convs.inputs) to[j + e] = out[e];
    }
  }
}

}  // namespace aminet::skaf
