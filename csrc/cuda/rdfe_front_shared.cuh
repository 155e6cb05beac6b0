// What the kernels of RDFE's front share: the call's sizes and parameters that may be of y's dtype or float32.
#pragma once

#include "cuda/device.h"

namespace aminet::rdfe {

constexpr int BRANCHES = 3;        // of 3 x 3, 5 x 5 and 7 x 7 taps
constexpr int TAPS = 9 + 25 + 49;  // of all of them
constexpr int LARGEST = 7, REACH = 3;
constexpr int LANES = 32;

__host__ __device__ constexpr int kernel_of(int branch) { return 2 * branch + 3; }
__host__ __device__ constexpr int first_tap(int branch) { return branch == 0 ? 0 : (branch == 1 ? 9 : 34); }

struct Sizes {
  int images, channels, height, width;
};

struct Depthwise {
  Parameter weight[BRANCHES], bias[BRANCHES];  // [C, K, K] and [C]
};

struct Unit {
  Parameter reduce_weight, reduce_bias, expand_weight, expand_bias;  // [hidden, 3 C], [hidden], [C, hidden], [C]
  int hidden;
};

}  // namespace aminet::rdfe
