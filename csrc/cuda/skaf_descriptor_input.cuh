// Gradient of skaf_descriptor's x: dx[q] = sum over taps d of
//     dmax[q - d] * W[argmax[q - d], d] + dmean[q - d] * (mean of all channels' W)[d]
//
// A thread makes eight channels of a pixel and gathers, tap after tap, a run of eight weights of the channel that was
// the pixel's maximum; a block 16 x 8 pixels' 24 channels. What pixels in reach gave is in shared memory.
#pragma once

#include "cuda/skaf_descriptor.cuh"

namespace aminet::skaf {

constexpr int kInputWidth = 16, kInputHeight = 8;
constexpr int kInputVectors = 3;
constexpr int kInputThreads = kInputWidth * kInputHeight * kInputVectors;
constexpr int kInputSpread = (kInputWidth + kMostWindow - 1) * (kInputHeight + kMostWindow - 1);

template <typename T>
__global__ void __launch_bounds__(kInputThreads, 2)
    input_kernel(const T* dm, const int* argmax, const T* packed, const float* mean, T* dx, Image at, Convs convs) {
  AMINET_SHARED(int, channels, [kInputSpread]);
  AMINET_SHARED(float, gains, [kInputSpread]);
  AMINET_SHARED(float, means, [kInputSpread]);
  const int radius = convs.window / 2, width = kInputWidth + 2 * radius, area = at.area();
  const int across = ceil_div(at.width, kInputWidth), down = ceil_div(at.height, kInputHeight);
  const int first_x = static_cast<int>(blockIdx.x % across) * kInputWidth;
  const int first_y = static_cast<int>(blockIdx.x / across % down) * kInputHeight;
  const int64_t image = blockIdx.x / across / down;
  dm += image * 2 * area;
  argmax += image * area;
  for (int i = threadIdx.x; i < width * (kInputHeight + 2 * radius); i += kInputThreads) {
    const int y = first_y - radius + i / width, x = first_x - radius + i % width, p = y * at.width + x;
    const bool inside = y >= 0 && y < at.height && x >= 0 && x < at.width;
    channels[i] = inside ? argmax[p] : 0;
    means[i] = inside ? widen(dm[p]) : 0.f;
    gains[i] = inside ? widen(dm[area + p]) : 0.f;
  }
  __syncthreads();

  const int pixel = threadIdx.x / kInputVectors;
  const int c = (blockIdx.y * kInputVectors + threadIdx.x % kInputVectors) * kVector;
  const int y = first_y + pixel / kInputWidth, x = first_x + pixel % kInputWidth;
  if (y >= at.height || x >= at.width || c >= convs.padded) return;
  packed += c;
  mean += c;
  const int length = convs.taps * convs.padded;
  float acc[kVector] = {};
  for (int tap_y = 0; tap_y < convs.window; ++tap_y) {
    // dx[q] takes from q - d: the window turned around.
    const int from = (pixel / kInputWidth + 2 * radius - tap_y) * width + pixel % kInputWidth + 2 * radius;
#pragma unroll
    for (int tap_x = 0; tap_x < kMostWindow; ++tap_x) {
      if (tap_x >= convs.window) break;
      const int tap = tap_y * convs.window + tap_x, channel = channels[from - tap_x];
      const float gain = gains[from - tap_x], all = means[from - tap_x];
      constexpr int kEach = 16 / sizeof(float);
#pragma unroll
      for (int j = 0; j < kVector; j += kEach) {
        const auto w = load<kEach>(mean + tap * convs.padded + j);
#pragma unroll
        for (int e = 0; e < kEach; ++e) acc[j + e] += all * w[e];
      }
      if (ring_of(tap, convs.window) > convs.reach(channel)) continue;
      const T* run = packed + channel * length + tap * convs.padded;
      constexpr int kWide = 16 / sizeof(T);
#pragma unroll
      for (int j = 0; j < kVector; j += kWide) {
        const auto w = load<kWide>(run + j);
#pragma unroll
        for (int e = 0; e < kWide; ++e) acc[j + e] += gain * widen(w[e]);
      }
    }
  }
  T* to = dx + (image * area + y * at.width + x) * convs.inputs + c;
  Vector<T, 16 / sizeof(T)> out[kVector * sizeof(T) / 16];
#pragma unroll
  for (int j = 0; j < kVector; ++j) out[j / (16 / sizeof(T))][j % (16 / sizeof(T))] = narrow<T>(acc[j]);
  if (convs.inputs % kVector == 0) {
#pragma unroll
    for (int j = 0; j < static_cast<int>(kVector * sizeof(T) / 16); ++j) store(to + j * (16 / sizeof(T)), out[j]);
  } else {
#pragma unroll
    for (int j = 0; j < kVector; ++j)
      if (c + j < convs.inputs) to[j] = narrow<T>(acc[j]);
  }
}

}  // namespace aminet::skaf
