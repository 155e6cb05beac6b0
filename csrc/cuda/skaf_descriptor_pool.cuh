// Mean, max and its first index over the channels of u, of parts of them that several threads or blocks have.
#pragma once

#include "cuda/skaf_descriptor.cuh"

namespace aminet::skaf {

constexpr int kNoChannel = 0x7fffffff;

// Of some channels of one pixel. As in torch.max a NaN is larger than all else, and the first of equals is found.
struct Pool {
  float sum = 0.f, best = -INFINITY;
  int found = kNoChannel;

  __device__ __forceinline__ void take(float value, int channel) {
    sum += value;
    better(value, channel);
  }
  __device__ __forceinline__ void join(const Pool& other) {
    sum += other.sum;
    better(other.best, other.found);
  }
  __device__ __forceinline__ void better(float value, int channel) {
    const bool same = value == best || (value != value && best != best);
    if ((same && channel < found) || value > best || (value != value && best == best)) {
      best = value;
      found = channel;
    }
  }
};

__device__ __forceinline__ Pool shuffled(const Pool& pool, int distance) {
  Pool other;
  other.sum = __shfl_xor_sync(0xffffffffu, pool.sum, distance);
  other.best = __shfl_xor_sync(0xffffffffu, pool.best, distance);
  other.found = __shfl_xor_sync(0xffffffffu, pool.found, distance);
  return other;
}

// Where pools go: parts [groups][pixels] where several blocks share a pixel's channels, else m and argmax.
template <typename T>
struct Pooled {
  T* m;         // [images][2][area]
  int* argmax;  // [pixels]
  Pool* parts;

  __device__ __forceinline__ void put(const Pool& pool, int64_t image, int area, int in_image, int total) const {
    T* to = m + image * 2 * area + in_image;
    to[0] = narrow<T>(pool.sum / static_cast<float>(total));
    to[area] = narrow<T>(pool.best);
    argmax[image * area + in_image] = pool.found;
  }
};

template <typename T>
__global__ void __launch_bounds__(256) join_kernel(Pooled<T> to, Image at, int total, int groups) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= at.pixels()) return;
  Pool pool = to.parts[pixel];
  for (int g = 1; g < groups; ++g) pool.join(to.parts[g * at.pixels() + pixel]);
  to.put(pool, pixel / at.area(), at.area(), static_cast<int>(pixel % at.area()), total);
}

}  // namespace aminet::skaf
