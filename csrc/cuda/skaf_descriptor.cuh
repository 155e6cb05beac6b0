// What the kernels of skaf_descriptor share: which convolutions there are, and their weights in rows.
#pragma once

#include "cuda/async.h"
#include "cuda/device.h"
#include "cuda/mma.h"

namespace aminet::skaf {

constexpr int kMostConvs = 2;
constexpr int kMostWindow = 7;
constexpr int kVector = 8;  // channels that a thread takes at a time, and that rows of weights are filled up to

// Arrays of what each convolution has are taken from by `either`: what comes with a launch has no addresses, and an index
// that is not known when compiling would have it copied.
template <typename T>
__host__ __device__ __forceinline__ T either(const T* both, int conv) {
  return conv ? both[1] : both[0];
}

// All of a vector in float. Of two bfloat16 in a register, one is its upper half and one its lower: one instruction each.
template <typename T, int N>
__device__ __forceinline__ void widen_all(float* to, const Vector<T, N>& v) {
#pragma unroll
  for (int j = 0; j < N; j += 2) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      uint32_t both;
      __builtin_memcpy(&both, &v[j], sizeof both);
      const uint32_t lower = both << 16, upper = both & 0xffff0000u;
      __builtin_memcpy(&to[j], &lower, sizeof lower);
      __builtin_memcpy(&to[j + 1], &upper, sizeof upper);
    } else {
      to[j] = widen(v[j]);
      to[j + 1] = widen(v[j + 1]);
    }
  }
}

// u's channels are those of one convolution after those of the other; the taps of both are counted in the larger's window.
struct Convs {
  int count;
  int inputs, padded;         // channels of x; rounded up to kVector
  int window, taps;           // the largest size; window * window
  int total;                  // channels of u
  int first[kMostConvs + 1];  // of u's channels
  int size[kMostConvs];

  __host__ __device__ int conv_of(int channel) const { return channel >= first[1] && count > 1; }
  __host__ __device__ int begin(int conv) const { return conv ? first[1] : 0; }
  __host__ __device__ int outputs(int conv) const { return conv ? total - first[1] : first[1]; }
  __host__ __device__ int reach(int channel) const { return either(size, conv_of(channel)) / 2; }
};

struct Image {
  int64_t images;
  int height, width;

  __host__ __device__ int area() const { return height * width; }
  __host__ __device__ int64_t pixels() const { return images * area(); }
};

struct Strides {
  int64_t of[4];
  __device__ __forceinline__ int64_t at(int o, int c, int y, int x) const {
    return o * of[0] + c * of[1] + y * of[2] + x * of[3];
  }
};

// Where the weights [C_k, C, k, k] of a convolution are, of whatever layout.
struct Weights {
  const void* data[kMostConvs];
  bool single[kMostConvs];  // float, not T
  Strides stride[kMostConvs];
};

// Biases [C_k].
struct Biases {
  const void* data[kMostConvs];
  bool single[kMostConvs];

  template <typename T>
  __device__ __forceinline__ float of(const Convs& convs, int channel) const {
    const int conv = convs.conv_of(channel), o = channel - convs.begin(conv);
    const void* from = either(data, conv);
    return either(single, conv) ? static_cast<const float*>(from)[o] : widen(static_cast<const T*>(from)[o]);
  }
};

// How far the tap is from the window's middle, in the larger of both directions.
__device__ __forceinline__ int ring_of(int tap, int window) {
  const int radius = window / 2, dy = tap / window - radius, dx = tap % window - radius;
  return max(dy < 0 ? -dy : dy, dx < 0 ? -dx : dx);
}

// The weights as [total][taps][padded], smaller kernels in the middle of zeros; floats rounded to tf32 if asked.
template <typename T>
__global__ void pack_kernel(Convs convs, Weights weights, T* packed, [[maybe_unused]] bool tf32) {
  const int k = blockIdx.y * blockDim.x + threadIdx.x, length = convs.taps * convs.padded;
  if (k >= length) return;
  const int channel = blockIdx.x, conv = convs.conv_of(channel), size = either(convs.size, conv);
  const int tap = k / convs.padded, c = k % convs.padded, inset = (convs.window - size) / 2;
  const int y = tap / convs.window - inset, x = tap % convs.window - inset;
  float value = 0.f;
  if (c < convs.inputs && y >= 0 && y < size && x >= 0 && x < size) {
    const Strides stride = either(weights.stride, conv);
    const int64_t at = stride.at(channel - convs.begin(conv), c, y, x);
    const void* from = either(weights.data, conv);
    value = either(weights.single, conv) ? static_cast<const float*>(from)[at] : widen(static_cast<const T*>(from)[at]);
  }
  if constexpr (std::is_same_v<T, float>)
    if (tf32) value = __uint_as_float(to_tf32(value));
  packed[static_cast<int64_t>(channel) * length + k] = narrow<T>(value);
}

// sums [length] of parts [count][length], divided: 32 of its numbers a block, eight threads each.
template <typename T>
__global__ void __launch_bounds__(256) sum_kernel(const T* parts, float* sums, int length, int count, float divisor) {
  AMINET_SHARED(float, slices, [8][33]);
  const int k = blockIdx.x * 32 + threadIdx.x % 32, slice = threadIdx.x / 32;
  float sum = 0.f;
  if (k < length)
    for (int i = slice; i < count; i += 8) sum += widen(parts[static_cast<int64_t>(i) * length + k]);
  slices[slice][threadIdx.x % 32] = sum;
  __syncthreads();
  if (slice != 0 || k >= length) return;
#pragma unroll
  for (int i = 1; i < 8; ++i) sum += slices[i][threadIdx.x];
  sums[k] = sum / divisor;
}

}  // namespace aminet::skaf
