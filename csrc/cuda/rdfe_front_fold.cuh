// The second stage of the sums for dW, in a fixed order: from partial [share][PARTIAL_ROWS][padded], shares of one
// image each where there is a scale a [N, C],
//   dW_k[c, tap] = sum_share a[n, c] S,  db_k[c] = sum_share S_bias,  da[n, c] = sum_(share of n, k, tap) W_k[c, tap] S
#pragma once

#include "cuda/rdfe_front_shared.cuh"

namespace aminet::rdfe {

constexpr int FOLD_LANES = 32, FOLD_ROWS = 8;  // of a block: elements, and side by side what is added up for them

struct FoldCall {
  const float* partial;
  int channels, padded;
  int64_t shares;  // in all
  int of_image;    // shares of an image, where there is a scale
  Parameter weight[BRANCHES], scale;  // scale.data may be null
  Gradient dweight[BRANCHES], dbias[BRANCHES], dscale;
};

// Sum over a block's rows; only its first row of threads gets it.
__device__ __forceinline__ float sum_of_rows(float v) {
  AMINET_SHARED(float, all, [FOLD_ROWS][FOLD_LANES]);
  all[threadIdx.y][threadIdx.x] = v;
  __syncthreads();
  float sum = 0.f;
  if (threadIdx.y == 0)
    for (int i = 0; i < FOLD_ROWS; ++i) sum += all[i][threadIdx.x];
  return sum;
}

// The branch that a row of partial belongs to.
__device__ __forceinline__ int branch_of(int row) {
  int branch = 0;
  while (branch + 1 < BRANCHES && row >= first_partial(branch + 1)) ++branch;
  return branch;
}

// Block (row, 32 channels).
template <typename T>
__global__ void fold_parameters(FoldCall call) {
  const int row = blockIdx.x, channel = blockIdx.y * FOLD_LANES + threadIdx.x;
  const int branch = branch_of(row), tap = row - first_partial(branch);
  const int taps = kernel_of(branch) * kernel_of(branch);
  float sum = 0.f;
  if (channel < call.channels)
#pragma unroll 4
    for (int64_t share = threadIdx.y; share < call.shares; share += FOLD_ROWS) {
      const float value = call.partial[(share * PARTIAL_ROWS + row) * call.padded + channel];
      const bool scaled = call.scale.data != nullptr && tap < taps;  // the bias comes after the scale
      sum += scaled ? value * call.scale.template at<T>(share / call.of_image * call.channels + channel) : value;
    }
  sum = sum_of_rows(sum);
  if (threadIdx.y > 0 || channel >= call.channels) return;
  if (tap < taps)
    call.dweight[branch].template put<T>(int64_t(channel) * taps + tap, sum);
  else
    call.dbias[branch].template put<T>(channel, sum);
}

// Block (image, 32 channels).
template <typename T>
__global__ void fold_scale(FoldCall call) {
  const int64_t image = blockIdx.x;
  const int channel = blockIdx.y * FOLD_LANES + threadIdx.x;
  float sum = 0.f;
  if (channel < call.channels)
    for (int branch = 0; branch < BRANCHES; ++branch) {
      const int taps = kernel_of(branch) * kernel_of(branch);
      for (int tap = threadIdx.y; tap < taps; tap += FOLD_ROWS) {
        const float weight = call.weight[branch].template at<T>(int64_t(channel) * taps + tap);
        const int64_t row = image * call.of_image * PARTIAL_ROWS + first_partial(branch) + tap;
        const float* from = call.partial + row * call.padded;
        float of_tap = 0.f;
        for (int share = 0; share < call.of_image; ++share)
          of_tap += from[int64_t(share) * PARTIAL_ROWS * call.padded + channel];
        sum = fmaf(weight, of_tap, sum);
      }
    }
  sum = sum_of_rows(sum);
  if (threadIdx.y == 0 && channel < call.channels) call.dscale.template put<T>(image * call.channels + channel, sum);
}

}  // namespace aminet::rdfe
