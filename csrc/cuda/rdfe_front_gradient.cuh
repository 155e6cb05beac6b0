// dF_k = dz (x) f'_k and dbias = sum dz:  [3 C, pixels] by [pixels, C] in splits of pixels, whose sums `fold_fuse` adds up in
// their order. Reads f' (3 images) and dz; partial sums are [split][inputs + 1][C] floats, dz's own in the last row.
//
// On tensor cores each of 8 warps has 16 of a stage's 128 pixels and all of a block's products, so that an operand is read
// once from shared memory: 80 inputs by 24 outputs (72 by 24 at C = 24) or 48 by 48. 1.81 GFLOP at every size: 2.3 us.
#pragma once

#include "cuda/async.h"
#include "cuda/mma.h"
#include "cuda/rdfe_front_shared.cuh"

namespace aminet::rdfe {

constexpr int GRADIENT_THREADS = 256, GRADIENT_PIXELS = 128;

struct Splits {
  int64_t pixels;
  int count, chunks;  // splits, of so many times GRADIENT_PIXELS pixels
};

// INPUTS times 16 and OUTPUTS times 8 of a block.
template <int INPUTS, int OUTPUTS>
struct Gradients {
  static constexpr int LEFT = INPUTS * 16, RIGHT = OUTPUTS * 8;
  // Of a stage: eight rows meet all banks.
  static constexpr int LEFT_ROW = LEFT + 8, RIGHT_ROW = RIGHT + (RIGHT % 16 == 0 ? 8 : 16);
  static constexpr int STAGE = GRADIENT_PIXELS * (LEFT_ROW + RIGHT_ROW);
  static constexpr int SUMS = LEFT * RIGHT + RIGHT;  // floats of a warp
  static constexpr int STAGES_BYTES = 2 * STAGE * 2, SUMS_BYTES = GRADIENT_THREADS / LANES * SUMS * 4;
  static constexpr int BYTES = STAGES_BYTES > SUMS_BYTES ? STAGES_BYTES : SUMS_BYTES;
};

// GRADIENT_PIXELS pixels of f' [group of 8 inputs][pixel][8] and of dz [pixel][C].
template <typename T, typename G>
__device__ __forceinline__ void load_gradients(const T* f, const T* dz, T* to, int64_t pixels, int64_t first, int inputs,
                                               int input, int channels, int out) {
#pragma unroll 1
  for (int i = threadIdx.x; i < GRADIENT_PIXELS * G::LEFT / 8; i += GRADIENT_THREADS) {
    const int pixel = i % GRADIENT_PIXELS, group = i / GRADIENT_PIXELS;
    const bool inside = first + pixel < pixels && input + group * 8 < inputs;
    copy_async<16>(to + pixel * G::LEFT_ROW + group * 8,
                   inside ? f + ((input / 8 + group) * pixels + first + pixel) * 8 : f, inside);
  }
  to += GRADIENT_PIXELS * G::LEFT_ROW;
  if (channels % 8 == 0) {
#pragma unroll 1
    for (int i = threadIdx.x; i < GRADIENT_PIXELS * G::RIGHT / 8; i += GRADIENT_THREADS) {
      const int pixel = i / (G::RIGHT / 8), c = out + i % (G::RIGHT / 8) * 8;
      const bool inside = first + pixel < pixels && c < channels;
      copy_async<16>(to + pixel * G::RIGHT_ROW + c - out, inside ? dz + (first + pixel) * channels + c : dz, inside);
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < GRADIENT_PIXELS * G::RIGHT; i += GRADIENT_THREADS) {
      const int pixel = i / G::RIGHT, c = out + i % G::RIGHT;
      const bool inside = first + pixel < pixels && c < channels;
      to[pixel * G::RIGHT_ROW + c - out] = inside ? dz[(first + pixel) * channels + c] : narrow<T>(0.f);
    }
  }
}

// Grid: (splits, blocks of inputs, blocks of outputs).
template <typename T, int INPUTS, int OUTPUTS>
__global__ void __launch_bounds__(GRADIENT_THREADS, 2)
    fuse_gradient(const T* f, const T* dz, float* partial, Splits splits, int inputs, int channels) {
  using G = Gradients<INPUTS, OUTPUTS>;
  AMINET_DYNAMIC_SHARED(T, room);
  constexpr int WARPS = GRADIENT_THREADS / LANES;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const int input = blockIdx.y * G::LEFT, out = blockIdx.z * G::RIGHT;
  const int64_t begin = int64_t(blockIdx.x) * splits.chunks * GRADIENT_PIXELS;
  const int64_t end = begin + int64_t(splits.chunks) * GRADIENT_PIXELS;
  const auto fetch = [&](int64_t first, int slot) {
    load_gradients<T, G>(f, dz, room + slot * G::STAGE, splits.pixels, first, inputs, input, channels, out);
    commit_async();
  };
  float sums[INPUTS][OUTPUTS][4] = {}, bias[ceil_div(G::RIGHT, LANES)] = {};
  fetch(begin, 0);
  int slot = 0;
  for (int64_t first = begin; first < end && first < splits.pixels; first += GRADIENT_PIXELS, slot ^= 1) {
    if (first + GRADIENT_PIXELS < end) {
      fetch(first + GRADIENT_PIXELS, slot ^ 1);
      wait_async<1>();
    } else {
      wait_async<0>();
    }
    __syncthreads();
    const T* left = room + slot * G::STAGE + warp * 16 * G::LEFT_ROW;
    const T* right = room + slot * G::STAGE + GRADIENT_PIXELS * G::LEFT_ROW + warp * 16 * G::RIGHT_ROW;
    uint32_t b[OUTPUTS][2];
#pragma unroll
    for (int o = 0; o < OUTPUTS; ++o) load_matrices<2, true>(b[o], right + lane % 16 * G::RIGHT_ROW + o * 8);
#pragma unroll
    for (int i = 0; i < INPUTS; ++i) {
      uint32_t a[4];
      load_matrices<4, true>(a, left + (lane % 8 + lane / 16 * 8) * G::LEFT_ROW + i * 16 + lane / 8 % 2 * 8);
#pragma unroll
      for (int o = 0; o < OUTPUTS; ++o) mma<T>(sums[i][o], a, b[o]);
    }
    if (input == 0)
#pragma unroll
      for (int j = 0; j < ceil_div(G::RIGHT, LANES); ++j)
        if (j * LANES + lane < G::RIGHT)
#pragma unroll
          for (int pixel = 0; pixel < 16; ++pixel) bias[j] += widen(right[pixel * G::RIGHT_ROW + j * LANES + lane]);
    __syncthreads();
  }
  wait_async<0>();
  float* all = reinterpret_cast<float*>(room) + warp * G::SUMS;
#pragma unroll
  for (int i = 0; i < INPUTS; ++i)
#pragma unroll
    for (int o = 0; o < OUTPUTS; ++o)
#pragma unroll
      for (int v = 0; v < 4; ++v)
        all[(i * 16 + lane / 4 + v / 2 * 8) * G::RIGHT + o * 8 + lane % 4 * 2 + v % 2] = sums[i][o][v];
#pragma unroll
  for (int j = 0; j < ceil_div(G::RIGHT, LANES); ++j)
    if (j * LANES + lane < G::RIGHT) all[G::LEFT * G::RIGHT + j * LANES + lane] = bias[j];
  __syncthreads();
  float* to = partial + int64_t(blockIdx.x) * (inputs + 1) * channels;
  for (int i = threadIdx.x; i < G::SUMS; i += GRADIENT_THREADS) {
    const int row = i / G::RIGHT, c = out + i % G::RIGHT, at = row < G::LEFT ? input + row : inputs;
    if (c >= channels || (row < G::LEFT ? at >= inputs : input > 0)) continue;
    float sum = 0.f;
    for (int w = 0; w < WARPS; ++w) sum += reinterpret_cast<const float*>(room)[w * G::SUMS + i];
    to[int64_t(at) * channels + c] = sum;
  }
}

constexpr int EXACT_INPUTS = 96, EXACT_GRADIENTS = 48, EXACT_PIXELS = 32;

// In float32 and exactly, f' being [pixel][inputs]: a thread has 6 inputs and 3 outputs, 16 apart. The sums of dz are the
// products with an input that is 1, behind the last one.
template <typename T>
__global__ void __launch_bounds__(GRADIENT_THREADS)
    fuse_gradient_exactly(const T* f, const T* dz, float* partial, Splits splits, int inputs, int channels) {
  AMINET_SHARED(float, left, [EXACT_PIXELS][EXACT_INPUTS]);
  AMINET_SHARED(float, right, [EXACT_PIXELS][EXACT_GRADIENTS]);
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const int input = blockIdx.y * EXACT_INPUTS, out = blockIdx.z * EXACT_GRADIENTS;
  const int64_t begin = int64_t(blockIdx.x) * splits.chunks * GRADIENT_PIXELS;
  const int64_t own = begin + int64_t(splits.chunks) * GRADIENT_PIXELS, end = own < splits.pixels ? own : splits.pixels;
  float sums[6][3] = {};
  for (int64_t first = begin; first < end; first += EXACT_PIXELS) {
    for (int i = threadIdx.x; i < EXACT_PIXELS * EXACT_INPUTS; i += GRADIENT_THREADS) {
      const int pixel = i / EXACT_INPUTS, k = input + i % EXACT_INPUTS;
      const bool inside = first + pixel < end;
      left[pixel][k - input] = inside && k < inputs ? widen(f[(first + pixel) * inputs + k]) : inside && k == inputs;
    }
    for (int i = threadIdx.x; i < EXACT_PIXELS * EXACT_GRADIENTS; i += GRADIENT_THREADS) {
      const int pixel = i / EXACT_GRADIENTS, c = out + i % EXACT_GRADIENTS;
      right[pixel][c - out] = first + pixel < end && c < channels ? widen(dz[(first + pixel) * channels + c]) : 0.f;
    }
    __syncthreads();
#pragma unroll 4
    for (int pixel = 0; pixel < EXACT_PIXELS; ++pixel)
#pragma unroll
      for (int o = 0; o < 3; ++o) {
        const float value = right[pixel][tx + 16 * o];
#pragma unroll
        for (int i = 0; i < 6; ++i) sums[i][o] = fmaf(left[pixel][ty + 16 * i], value, sums[i][o]);
      }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 6; ++i)
#pragma unroll
    for (int o = 0; o < 3; ++o) {
      const int at = input + ty + 16 * i, c = out + tx + 16 * o;
      if (at <= inputs && c < channels)
        partial[(int64_t(blockIdx.x) * (inputs + 1) + at) * channels + c] = sums[i][o];
    }
}

}  // namespace aminet::rdfe
