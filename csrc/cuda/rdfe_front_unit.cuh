// The backward of the attention unit, and what is left to add up when the images are done with. With d = da a (1 - a),
//
//   dhidden = relu'(hidden) E^T d;  const_k = R_k^T dhidden / HW, the gradient of f_k through `a`, the same at every pixel
//   dE = sum_n d (x) relu(hidden), de = sum d;  dR = sum_n dhidden (x) mean, db = sum dhidden
//
// Vectors of an image: no bytes to speak of, three short launches.
#pragma once

#include "cuda/rdfe_front_fold.cuh"
#include "cuda/rdfe_front_sums.cuh"

namespace aminet::rdfe {

// F^T as the product of dz with it wants it: [branch][block][GROUP] rows of C outputs' weights, zeros where no channel is.
template <typename T>
__global__ void turn_fuse(Parameter fuse, T* to, int channels, int group, int blocks) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int input = static_cast<int>(at / channels), out = static_cast<int>(at % channels);
  const int branch = input / (group * blocks), c = input % (group * blocks);
  if (branch >= BRANCHES) return;
  const int64_t from = int64_t(out) * BRANCHES * channels + branch * channels + c;
  to[at] = narrow<T>(c < channels ? fuse.at<T>(from) : 0.f);
}

template <typename T>
__global__ void add_images(const T* from, T* to, int64_t elements) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += int64_t(gridDim.x) * blockDim.x)
    to[i] = narrow<T>(widen(to[i]) + widen(from[i]));
}

// What the unit's backward leaves: vectors of every image, float.
struct UnitVectors {
  float *mean, *active, *dhidden, *dlogit, *constant;  // [N, 3 C], [N, hidden] twice, [N, C], [branch][N, C]
};

// A block an image; dynamic shared memory: 4 C + 2 hidden floats.
template <typename T>
__global__ void __launch_bounds__(SUM_THREADS)
    unit_backward(const float* sums, const float* a, const float* da, Depthwise first, Unit unit, UnitVectors to, Sizes s) {
  AMINET_DYNAMIC_SHARED(float, means);
  const int inputs = BRANCHES * s.channels, warp = threadIdx.x / LANES, warps = SUM_THREADS / LANES;
  float *dlogit = means + inputs, *hidden = dlogit + s.channels, *dhidden = hidden + unit.hidden;
  const int64_t n = blockIdx.x;
  means_of<T>(sums + n * LARGEST * LARGEST * s.channels, first, s, means);
  for (int c = threadIdx.x; c < s.channels; c += SUM_THREADS) {
    const float value = a[n * s.channels + c];
    dlogit[c] = to.dlogit[n * s.channels + c] = da[n * s.channels + c] * value * (1 - value);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < inputs; i += SUM_THREADS) to.mean[n * inputs + i] = means[i];
  for (int h = warp; h < unit.hidden; h += warps) {
    const float sum = row_product<T>(unit.reduce_weight, h, means, inputs) + unit.reduce_bias.at<T>(h);
    float back = 0;
    for (int c = threadIdx.x % LANES; c < s.channels; c += LANES)
      back += unit.expand_weight.at<T>(int64_t(c) * unit.hidden + h) * dlogit[c];
    back = warp_sum(back);
    if (threadIdx.x % LANES != 0) continue;
    dhidden[h] = to.dhidden[n * unit.hidden + h] = sum <= 0 ? 0.f : back;  // a NaN passes
    to.active[n * unit.hidden + h] = sum < 0 ? 0.f : sum;
  }
  __syncthreads();
  const float pixels = float(s.height) * float(s.width);
  for (int i = threadIdx.x; i < inputs; i += SUM_THREADS) {
    float sum = 0;
#pragma unroll 4
    for (int h = 0; h < unit.hidden; ++h) sum += unit.reduce_weight.at<T>(int64_t(h) * inputs + i) * dhidden[h];
    to.constant[(int64_t(i / s.channels) * s.images + n) * s.channels + i % s.channels] = sum / pixels;
  }
}

// Sum over images of left[n, row] right[n, column].
__device__ __forceinline__ float over_images(const float* left, int rows, int row, const float* right, int columns,
                                             int column, int images) {
  float sum = 0;
#pragma unroll 4
  for (int64_t n = 0; n < images; ++n)
    sum += left[n * rows + row] * (right != nullptr ? right[n * columns + column] : 1.f);
  return sum;
}

struct UnitGradients {
  Gradient reduce_weight, reduce_bias, expand_weight, expand_bias;
};

// A thread an element of all four.
template <typename T>
__global__ void unit_parameters(UnitVectors from, UnitGradients to, int hidden, Sizes s) {
  const int inputs = BRANCHES * s.channels;
  int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < int64_t(hidden) * inputs) {
    const int h = static_cast<int>(i / inputs), input = static_cast<int>(i % inputs);
    to.reduce_weight.put<T>(i, over_images(from.dhidden, hidden, h, from.mean, inputs, input, s.images));
    return;
  }
  i -= int64_t(hidden) * inputs;
  if (i < int64_t(hidden) * s.channels) {
    const int c = static_cast<int>(i / hidden), h = static_cast<int>(i % hidden);
    to.expand_weight.put<T>(i, over_images(from.dlogit, s.channels, c, from.active, hidden, h, s.images));
    return;
  }
  const int j = static_cast<int>(i - int64_t(hidden) * s.channels);
  if (j < hidden)
    to.reduce_bias.put<T>(j, over_images(from.dhidden, hidden, j, nullptr, 0, 0, s.images));
  else if (j < hidden + s.channels)
    to.expand_bias.put<T>(j - hidden, over_images(from.dlogit, s.channels, j - hidden, nullptr, 0, 0, s.images));
}

// dF and dbias from partial [split][inputs + 1][C], whose inputs are [branch][block][group].
template <typename T>
__global__ void fold_fuse(const float* partial, int splits, Gradient weight, Gradient bias, int channels, int group,
                          int blocks) {
  const int inputs = BRANCHES * blocks * group;
  const int64_t size = int64_t(inputs + 1) * channels, at = int64_t(blockIdx.x) * FOLD_LANES + threadIdx.x;
  float sum = 0;
  if (at < size)
#pragma unroll 4
    for (int split = threadIdx.y; split < splits; split += FOLD_ROWS) sum += partial[split * size + at];
  sum = sum_of_rows(sum);
  if (threadIdx.y != 0 || at >= size) return;
  const int input = static_cast<int>(at / channels), out = static_cast<int>(at % channels);
  const int branch = input / (group * blocks), c = input % (group * blocks);
  if (branch == BRANCHES)
    bias.put<T>(out, sum);
  else if (c < channels)
    weight.put<T>(int64_t(out) * BRANCHES * channels + branch * channels + c, sum);
}

}  // namespace aminet::rdfe
