// The second stage of multiscale_dwconv's sums, in a fixed order: from partial [share][row][channels], shares of one image
// each where there is a scale a [N, C],
//   dW_k[c, tap] = sum_share a[n, c] S,  db_k[c] = sum_share S_bias,  da[n, c] = sum_(share of n, k, tap) W_k[c, tap] S.
#pragma once

#include "cuda/multiscale_dwconv_tile.cuh"

namespace aminet::multiscale {

constexpr int kFoldLanes = 32, kFoldRows = 8;  // a block: channels, and shares or rows side by side

struct FoldCall {
  const float* partial;
  int channels, rows, padded, branches;
  int64_t shares;  // in all
  int of_image;    // shares of an image, where there is a scale
  int kernel[kBranches], row[kBranches];
  Parameter weight[kBranches], scale;  // scale.data may be null
  Gradient dweight[kBranches], dbias[kBranches], dscale;
};

// Sum over a block's rows; only its first row of threads gets it.
__device__ __forceinline__ float sum_of_rows(float v) {
  AMINET_SHARED(float, all, [kFoldRows][kFoldLanes]);
  all[threadIdx.y][threadIdx.x] = v;
  __syncthreads();
  float sum = 0.f;
  if (threadIdx.y == 0)
    for (int i = 0; i < kFoldRows; ++i) sum += all[i][threadIdx.x];
  return sum;
}

// The branch that a row of partial belongs to.
__device__ __forceinline__ int branch_of(const FoldCall& call, int row) {
  int branch = 0;
  while (branch + 1 < call.branches && row >= call.row[branch + 1]) ++branch;
  return branch;
}

// Block (row, 32 channels).
template <typename T>
__global__ void fold_parameters(FoldCall call) {
  const int row = blockIdx.x, channel = blockIdx.y * kFoldLanes + threadIdx.x;
  const int branch = branch_of(call, row), tap = row - call.row[branch];
  const int taps = call.kernel[branch] * call.kernel[branch];
  float sum = 0.f;
  if (channel < call.channels)
#pragma unroll 4
    for (int64_t share = threadIdx.y; share < call.shares; share += kFoldRows) {
      const float value = call.partial[(share * call.rows + row) * call.padded + channel];
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
  const int channel = blockIdx.y * kFoldLanes + threadIdx.x;
  float sum = 0.f;
  if (channel < call.channels)
    for (int branch = 0; branch < call.branches; ++branch) {
      const int taps = call.kernel[branch] * call.kernel[branch];
      for (int tap = threadIdx.y; tap < taps; tap += kFoldRows) {
        const float weight = call.weight[branch].template at<T>(int64_t(channel) * taps + tap);
        const float* from = call.partial + (image * call.of_image * call.rows + call.row[branch] + tap) * call.padded;
        float of_tap = 0.f;
        for (int share = 0; share < call.of_image; ++share)
          of_tap += from[int64_t(share) * call.rows * call.padded + channel];
        sum = fmaf(weight, of_tap, sum);
      }
    }
  sum = sum_of_rows(sum);
  if (threadIdx.y == 0 && channel < call.channels) call.dscale.template put<T>(image * call.channels + channel, sum);
}

}  // namespace aminet::multiscale
