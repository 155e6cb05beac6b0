// sums[n, i, j, c] = sum of y[n, p + (i, j) - 3, c] over p;  a[n] = sigmoid(E relu(R mean + b) + e), mean_k = DW_k . sums / HW
//
// Two launches. window_parts reads y once in vectors of 16 bytes: a block has up to ROWS rows away from the upper and the
// lower border, which every tap meets, or one row near them; it leaves, for each of the 7 shifts along a row, the sum of
// what the shift meets [7, C]. attend has a block an image: it adds the parts up that a tap's row meets, and runs the unit.
// Only what is met is added, nothing is taken away, so a tap that meets no pixel has exactly 0.
//
// Floor: y once (25.2 MB at 24@128, batch 32, 16 bits: 8.4 us at 3.0 TB/s); the parts are 1/150 of it.
#pragma once

#include "cuda/rdfe_front_shared.cuh"

namespace aminet::rdfe {

constexpr int ROWS = 8;  // of a part away from the borders
constexpr int SUM_THREADS = 256, SUM_CHANNELS = 256;  // channels of a block, at most

// Parts of an image: `middle` of up to ROWS rows from row 3 on, then single rows: the first 3 and the last 3, each once.
struct Parts {
  int middle, border;
  __host__ __device__ explicit Parts(int height)
      : middle(height > 2 * REACH ? (height - 2 * REACH + ROWS - 1) / ROWS : 0),
        border(height < 2 * REACH ? height : 2 * REACH) {}
  __host__ __device__ int count() const { return middle + border; }
  // Of the i-th single row.
  __host__ __device__ int border_row(int i, int height) const {
    return i < REACH && i < height ? i : height - border + i;
  }
};

// Whether tap i of 7 meets row (or column) at, of `length`.
__device__ __forceinline__ bool meets(int i, int at, int length) {
  return at >= i - REACH && at < length + i - REACH;
}

// parts [image, part, 7, C]; grid: (parts, images); V channels a load, GROUPS of them that a block takes at a time.
template <typename T, int V>
__global__ void __launch_bounds__(SUM_THREADS) window_parts(const T* y, float* parts, Sizes s, int groups) {
  AMINET_SHARED(float, met, [SUM_THREADS * V]);             // sums of a thread's columns that every shift meets
  AMINET_SHARED(float, border, [2 * REACH][SUM_CHANNELS]);  // of the first and last columns
  const Parts of(s.height);
  const int part = blockIdx.x % of.count(), first_channel = blockIdx.x / of.count() * groups * V;
  const int row = part < of.middle ? REACH + part * ROWS : of.border_row(part - of.middle, s.height);
  const int rows = part < of.middle ? min(ROWS, s.height - REACH - row) : 1;
  const int edges = min(2 * REACH, s.width);
  const int lanes = SUM_THREADS / groups, group = threadIdx.x % groups, lane = threadIdx.x / groups;
  const int channel = first_channel + group * V;
  const T* from = y + (int64_t(blockIdx.y) * s.height + row) * s.width * s.channels + channel;
  float middle[V] = {};
  if (lane < lanes && channel < s.channels) {
    for (int x = lane; x < s.width; x += lanes) {
      float sum[V] = {};
#pragma unroll 4
      for (int r = 0; r < rows; ++r) {
        const auto value = load<V>(from + (int64_t(r) * s.width + x) * s.channels);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += widen(value[v]);
      }
      const bool left = x < REACH, right = x >= s.width - REACH;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (left || right)
          border[left ? x : edges - s.width + x][group * V + v] = sum[v];
        else
          middle[v] += sum[v];
      }
    }
  }
#pragma unroll
  for (int v = 0; v < V; ++v) met[threadIdx.x * V + v] = middle[v];
  __syncthreads();
  const int held = min(groups * V, s.channels - first_channel);
  for (int c = threadIdx.x; c < held; c += SUM_THREADS) {
    float sum = 0;
    for (int l = 0; l < lanes; ++l) sum += met[l * groups * V + c];
    float* to = parts + (int64_t(blockIdx.y) * of.count() + part) * LARGEST * s.channels + first_channel + c;
    for (int j = 0; j < LARGEST; ++j) {
      float with = sum;
      for (int e = 0; e < edges; ++e)
        if (meets(j, e < REACH ? e : s.width - edges + e, s.width)) with += border[e][c];
      to[int64_t(j) * s.channels] = with;
    }
  }
}

// sums of an image from its parts.
__device__ __forceinline__ void add_parts(const float* parts, float* sums, const Sizes& s) {
  const Parts of(s.height);
  const int row = LARGEST * s.channels;
  for (int at = threadIdx.x; at < row; at += SUM_THREADS) {
    float everywhere = 0;
#pragma unroll 4
    for (int part = 0; part < of.middle; ++part) everywhere += parts[int64_t(part) * row + at];
    for (int i = 0; i < LARGEST; ++i) {
      float sum = everywhere;
      for (int b = 0; b < of.border; ++b)
        if (meets(i, of.border_row(b, s.height), s.height)) sum += parts[int64_t(of.middle + b) * row + at];
      sums[int64_t(i) * row + at] = sum;
    }
  }
}

// means [branch, C] of the first convolutions of an image.
template <typename T>
__device__ __forceinline__ void means_of(const float* sums, const Depthwise& first, const Sizes& s, float* means) {
  const float pixels = float(s.height) * float(s.width);
  for (int at = threadIdx.x; at < BRANCHES * s.channels; at += SUM_THREADS) {
    const int branch = at / s.channels, c = at % s.channels, size = kernel_of(branch), margin = REACH - size / 2;
    const Parameter weight = branch == 0 ? first.weight[0] : (branch == 1 ? first.weight[1] : first.weight[2]);
    const Parameter bias = branch == 0 ? first.bias[0] : (branch == 1 ? first.bias[1] : first.bias[2]);
    float dot = 0;
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < size; ++j)
        dot += weight.at<T>((int64_t(c) * size + i) * size + j) *
               sums[int64_t((i + margin) * LARGEST + j + margin) * s.channels + c];
    means[at] = dot / pixels + bias.at<T>(c);
  }
}

// A warp's product of row `row` of a matrix [., length] with a vector, in every lane.
template <typename T>
__device__ __forceinline__ float row_product(const Parameter& matrix, int64_t row, const float* vector, int length) {
  float sum = 0;
  for (int i = threadIdx.x % LANES; i < length; i += LANES) sum += matrix.at<T>(row * length + i) * vector[i];
  return warp_sum(sum);
}

// A block an image; dynamic shared memory: 3 C + hidden floats. Writes the fusion's weights in T too, for `fuse`.
template <typename T>
__global__ void __launch_bounds__(SUM_THREADS)
    attend(const float* parts, float* sums, float* a, Depthwise first, Unit unit, Parameter fuse, T* packed, Sizes s) {
  AMINET_DYNAMIC_SHARED(float, means);
  float* hidden = means + BRANCHES * s.channels;
  const int n = blockIdx.x, warp = threadIdx.x / LANES, warps = SUM_THREADS / LANES;
  sums += int64_t(n) * LARGEST * LARGEST * s.channels;
  add_parts(parts + int64_t(n) * Parts(s.height).count() * LARGEST * s.channels, sums, s);
  const int64_t weights = int64_t(BRANCHES) * s.channels * s.channels;
  for (int64_t i = int64_t(n) * SUM_THREADS + threadIdx.x; i < weights; i += int64_t(s.images) * SUM_THREADS)
    packed[i] = narrow<T>(fuse.at<T>(i));
  __syncthreads();
  means_of<T>(sums, first, s, means);
  __syncthreads();
  for (int h = warp; h < unit.hidden; h += warps) {
    const float sum = row_product<T>(unit.reduce_weight, h, means, BRANCHES * s.channels) + unit.reduce_bias.at<T>(h);
    if (threadIdx.x % LANES == 0) hidden[h] = sum < 0 ? 0.f : sum;  // a NaN passes
  }
  __syncthreads();
  for (int c = warp; c < s.channels; c += warps) {
    const float sum = row_product<T>(unit.expand_weight, c, hidden, unit.hidden) + unit.expand_bias.at<T>(c);
    if (threadIdx.x % LANES == 0) a[int64_t(n) * s.channels + c] = 1 / (1 + expf(-sum));
  }
}

}  // namespace aminet::rdfe
