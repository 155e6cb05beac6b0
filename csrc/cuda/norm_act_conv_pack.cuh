// The weights [K, C, 3, 3] as products read them: for each tap [C][K], or [K][C] for the gradient of x.
//
// The order is that of kernels/norm_act_conv_plan.py: phase by phase, row by row. After nearest x2 a tap of the forward
// is the sum of the weights that meet the same pixel of the small map.
#pragma once

#include "cuda/device.h"

namespace aminet::nac {

enum class Taps { kForward, kForwardUp, kBackward, kBackwardStrided };

__host__ __device__ constexpr int taps_of(Taps taps) { return taps == Taps::kForwardUp ? 16 : 9; }

// Rows of the weight, or columns, as bits: those that tap number `tap` sums along an axis.
__device__ __forceinline__ int weights_of(Taps taps, int tap, bool column) {
  if (taps == Taps::kForwardUp) {
    const int phase = column ? tap / 4 % 2 : tap / 8, of_phase = column ? tap % 2 : tap / 2 % 2;
    return phase == 0 ? (of_phase == 0 ? 1 : 6) : (of_phase == 0 ? 3 : 4);
  }
  if (taps != Taps::kBackwardStrided) {
    const int number = column ? tap % 3 : tap / 3;
    return 1 << (taps == Taps::kForward ? number : 2 - number);
  }
  // W1 x W1; W1 x W2 W0; W2 W0 x W1; W2 W0 x W2 W0
  const bool odd = column ? tap == 1 || tap == 2 || tap > 4 : tap > 2;
  const int second = column ? (tap > 4 ? (tap - 5) % 2 : tap - 1) : (tap > 4 ? (tap - 5) / 2 : tap - 3);
  return !odd ? 2 : second == 0 ? 4 : 1;
}

struct WeightStrides {
  int64_t of[4];
};

// Blocks: 256 weights; taps.
template <typename T>
__global__ void __launch_bounds__(256)
    pack_kernel(Parameter weight, WeightStrides stride, T* packed, Taps taps, int outputs, int inputs) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= static_cast<int64_t>(outputs) * inputs) return;
  const bool backward = taps == Taps::kBackward || taps == Taps::kBackwardStrided;
  const int columns = backward ? inputs : outputs;
  const int row = static_cast<int>(i / columns), column = static_cast<int>(i % columns);
  const int64_t from = (backward ? row : column) * stride.of[0] + (backward ? column : row) * stride.of[1];
  const int rows_of = weights_of(taps, blockIdx.y, false), columns_of = weights_of(taps, blockIdx.y, true);
  float sum = 0.f;
#pragma unroll
  for (int tap = 0; tap < 9; ++tap)
    if ((rows_of >> (tap / 3) & 1) && (columns_of >> (tap % 3) & 1))
      sum += weight.at<T>(from + tap / 3 * stride.of[2] + tap % 3 * stride.of[3]);
  packed[blockIdx.y * static_cast<int64_t>(outputs) * inputs + i] = narrow<T>(sum);
}

}  // namespace aminet::nac
