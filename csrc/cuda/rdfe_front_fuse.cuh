// z = F f' + bias + y:  [pixels, 3 C] by [3 C, C], where f' went through memory. Reads f' (3 images) and y, writes z.
// df' = F^T dz:  [pixels, C] by [C, 3 C]. Reads dz, writes df' (3 images).
//
// 128 pixels and 48 or 96 outputs a block: F (in y's dtype, as attend left it) comes from L2 once for 128 pixels, and at
// C = 24, 48 and 96 f' is read once. Two stages of 48 inputs are loaded and multiplied in turn. 50.2 KB at 96 outputs and
// 110 registers: two blocks on a multiprocessor. 1.81 GFLOP at every size of the network: 2.3 us; its bytes, 15.7 MB
// at 192@16 and 62.9 at 48@64, are the limit.
#pragma once

#include "cuda/async.h"
#include "cuda/mma.h"
#include "cuda/rdfe_front_shared.cuh"

namespace aminet::rdfe {

constexpr int FUSE_THREADS = 256, FUSE_PIXELS = 128;
constexpr int DEPTH = 48, DEPTH_ROW = DEPTH + 8;  // of a product's operands; rows 28 words apart: no bank conflicts

// ROWS rows of a matrix [rows, length] from `row` on, DEPTH columns from `column` on, to [ROWS][DEPTH_ROW].
template <int ROWS, typename T>
__device__ __forceinline__ void load_operand(const T* from, int64_t rows, int length, int64_t row, int column, T* to) {
  constexpr int VECTOR = 8, GROUPS = DEPTH / VECTOR;
  if (length % VECTOR == 0) {
    for (int i = threadIdx.x; i < ROWS * GROUPS; i += FUSE_THREADS) {
      const int r = i / GROUPS, k = i % GROUPS * VECTOR;
      const bool inside = row + r < rows && column + k < length;
      copy_async<16>(to + r * DEPTH_ROW + k, inside ? from + (row + r) * length + column + k : from, inside);
    }
  } else {
    for (int i = threadIdx.x; i < ROWS * DEPTH; i += FUSE_THREADS) {
      const int r = i / DEPTH, k = i % DEPTH;
      const bool inside = row + r < rows && column + k < length;
      to[r * DEPTH_ROW + k] = inside ? from[(row + r) * length + column + k] : narrow<T>(0.f);
    }
  }
}

// z of neighbouring outputs of a pixel.
template <typename T>
struct AddTo {
  const T* y;
  Parameter bias;
  T* z;
  int channels;

  __device__ __forceinline__ void one(float sum, int64_t pixel, int out) const {
    const int64_t at = pixel * channels + out;
    z[at] = narrow<T>(sum + bias.at<T>(out) + widen(y[at]));
  }
  __device__ __forceinline__ void pair(float first, float second, int64_t pixel, int out) const {
    if (out >= channels) return;
    if (channels % 2 == 0) {
      const int64_t at = pixel * channels + out;
      const auto residual = load<2>(y + at);
      Vector<T, 2> both;
      both[0] = narrow<T>(first + bias.at<T>(out) + widen(residual[0]));
      both[1] = narrow<T>(second + bias.at<T>(out + 1) + widen(residual[1]));
      store(z + at, both);
    } else {
      one(first, pixel, out);
      if (out + 1 < channels) one(second, pixel, out + 1);
    }
  }
};

// df' as [group of GROUP outputs][pixel][GROUP]: of an even number of outputs for `pair`.
template <typename T>
struct Apart {
  T* df;
  int64_t pixels;
  int group, outputs;

  __device__ __forceinline__ T* at(int64_t pixel, int out) const {
    return df + (out / group * pixels + pixel) * group + out % group;
  }
  __device__ __forceinline__ void one(float sum, int64_t pixel, int out) const { *at(pixel, out) = narrow<T>(sum); }
  __device__ __forceinline__ void pair(float first, float second, int64_t pixel, int out) const {
    if (out >= outputs) return;
    Vector<T, 2> both;
    both[0] = narrow<T>(first), both[1] = narrow<T>(second);
    store(at(pixel, out), both);
  }
};

// f [pixels, length] by weights [outputs, length] on tensor cores: a block has FUSE_PIXELS pixels and OUTPUTS outputs, a
// warp 16 pixels. What becomes of the sums is Finish's.
template <typename T, int OUTPUTS, typename Finish>
__global__ void __launch_bounds__(FUSE_THREADS)
    fuse(const T* f, const T* weights, int64_t pixels, int length, int outputs, Finish finish) {
  AMINET_DYNAMIC_SHARED(T, room);
  constexpr int STAGE = (FUSE_PIXELS + OUTPUTS) * DEPTH_ROW, TILES = OUTPUTS / 8;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const int64_t first = int64_t(blockIdx.x) * FUSE_PIXELS;
  const int first_out = blockIdx.y * OUTPUTS;
  const auto fetch = [&](int k) {
    T* to = room + k / DEPTH % 2 * STAGE;
    load_operand<FUSE_PIXELS>(f, pixels, length, first, k, to);
    load_operand<OUTPUTS>(weights, int64_t(outputs), length, int64_t(first_out), k, to + FUSE_PIXELS * DEPTH_ROW);
    commit_async();
  };
  float sums[TILES][4] = {};
  fetch(0);
  for (int k = 0; k < length; k += DEPTH) {
    if (k + DEPTH < length) {
      fetch(k + DEPTH);
      wait_async<1>();
    } else {
      wait_async<0>();
    }
    __syncthreads();
    const T* left = room + k / DEPTH % 2 * STAGE;
    const T* right = left + FUSE_PIXELS * DEPTH_ROW;
#pragma unroll
    for (int d = 0; d < DEPTH; d += 16) {
      uint32_t a[4];
      load_matrices<4>(a, left + (warp * 16 + lane % 16) * DEPTH_ROW + d + lane / 16 * 8);
#pragma unroll
      for (int tile = 0; tile < TILES; tile += 2) {
        uint32_t b[4];  // of two tiles of outputs
        load_matrices<4>(b, right + (tile * 8 + lane % 8 + lane / 16 * 8) * DEPTH_ROW + d + lane / 8 % 2 * 8);
        mma<T>(sums[tile], a, {b[0], b[1]});
        mma<T>(sums[tile + 1], a, {b[2], b[3]});
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t pixel = first + warp * 16 + half * 8 + lane / 4;
      if (pixel < pixels)
        finish.pair(sums[tile][2 * half], sums[tile][2 * half + 1], pixel, first_out + tile * 8 + lane % 4 * 2);
    }
}

constexpr int EXACT_OUTPUTS = 48, EXACT_DEPTH = 24, EXACT_ROW = FUSE_PIXELS + 4;

// In float32 and exactly: a thread has 8 pixels and 3 outputs, 16 apart.
template <typename T, typename Finish>
__global__ void __launch_bounds__(FUSE_THREADS)
    fuse_exactly(const T* f, const T* weights, int64_t pixels, int length, int outputs, Finish finish) {
  AMINET_SHARED(float, left, [EXACT_DEPTH][EXACT_ROW]);
  AMINET_SHARED(float, right, [EXACT_DEPTH][EXACT_OUTPUTS]);
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const int64_t first = int64_t(blockIdx.x) * FUSE_PIXELS;
  const int first_out = blockIdx.y * EXACT_OUTPUTS;
  float sums[8][3] = {};
  for (int start = 0; start < length; start += EXACT_DEPTH) {
    for (int i = threadIdx.x; i < FUSE_PIXELS * EXACT_DEPTH; i += FUSE_THREADS) {
      const int pixel = i / EXACT_DEPTH, k = i % EXACT_DEPTH;
      const bool inside = first + pixel < pixels && start + k < length;
      left[k][pixel] = inside ? widen(f[(first + pixel) * length + start + k]) : 0.f;
    }
    for (int i = threadIdx.x; i < EXACT_OUTPUTS * EXACT_DEPTH; i += FUSE_THREADS) {
      const int out = i / EXACT_DEPTH, k = i % EXACT_DEPTH;
      const bool inside = first_out + out < outputs && start + k < length;
      right[k][out] = inside ? widen(weights[int64_t(first_out + out) * length + start + k]) : 0.f;
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < EXACT_DEPTH; ++k) {
      const auto low = load<4>(&left[k][ty * 8]), high = load<4>(&left[k][ty * 8 + 4]);
#pragma unroll
      for (int o = 0; o < 3; ++o) {
        const float w = right[k][tx + 16 * o];
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[i][o] += low[i] * w, sums[4 + i][o] += high[i] * w;
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int o = 0; o < 3; ++o) {
      const int64_t pixel = first + ty * 8 + i;
      const int out = first_out + tx + 16 * o;
      if (pixel < pixels && out < outputs) finish.one(sums[i][o], pixel, out);
    }
}

}  // namespace aminet::rdfe
