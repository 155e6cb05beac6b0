// norm_act_conv's last launch backward: what blocks left in parts, added up in an order that shapes give.
#pragma once

#include "cuda/norm_act_conv_weight.cuh"

namespace aminet::nac {

struct ChannelParts {
  const float* partial;  // [2][channels][parts]
  int64_t parts;
  int channels;  // 0: there are none
  Gradient dscale, dshift;
};

struct WeightParts {
  const float* partial;  // [splits][9][ones][others]
  int splits;
  int ones, others;
  Gradient dweight;
  int64_t stride[4];  // of ones, others, row, column
};

constexpr int kSumThreads = 256, kSumWarps = kSumThreads / 32;

// Slices of the splits that a block's threads add up side by side.
__host__ __device__ inline int slices_of(int splits) { return splits > 2 * kSumWarps ? kSumWarps : 1; }

// A block for each channel; then a block for so many weights that each slice has a thread for each.
template <typename T>
__global__ void __launch_bounds__(kSumThreads) sums_kernel(ChannelParts c, WeightParts w) {
  AMINET_SHARED(float, parts, [kSumThreads]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (static_cast<int>(blockIdx.x) < c.channels) {
    const float* of_scale = c.partial + blockIdx.x * c.parts;
    const float* of_shift = of_scale + c.channels * c.parts;
    float scale = 0.f, shift = 0.f;
    for (int64_t part = threadIdx.x; part < c.parts; part += kSumThreads) scale += of_scale[part], shift += of_shift[part];
    scale = warp_sum(scale), shift = warp_sum(shift);
    if (lane == 0) parts[warp] = scale, parts[kSumWarps + warp] = shift;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < kSumWarps; ++i) scale += parts[i], shift += parts[kSumWarps + i];
    c.dscale.put<T>(blockIdx.x, scale);
    c.dshift.put<T>(blockIdx.x, shift);
    return;
  }
  const int count = kTaps * w.ones * w.others, slices = slices_of(w.splits), each = kSumThreads / slices;
  const int slice = threadIdx.x / each, i = (static_cast<int>(blockIdx.x) - c.channels) * each + threadIdx.x % each;
  float sum = 0.f;
  if (i < count)
    for (int split = slice; split < w.splits; split += slices) sum += w.partial[static_cast<int64_t>(split) * count + i];
  parts[threadIdx.x] = sum;
  if (slices > 1) __syncthreads();
  if (slice != 0 || i >= count) return;
  for (int s = 1; s < slices; ++s) sum += parts[s * each + threadIdx.x];
  const int line = i / w.others, tap = line / w.ones;
  w.dweight.put<T>((line - tap * w.ones) * w.stride[0] + (i - line * w.others) * w.stride[1] + tap / 3 * w.stride[2] +
                       tap % 3 * w.stride[3],
                   sum);
}

}  // namespace aminet::nac
