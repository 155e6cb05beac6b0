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

// Of what a block adds up for a channel: taps and a bias, branch by branch.
constexpr int PARTIAL_ROWS = TAPS + BRANCHES;
__host__ __device__ constexpr int first_partial(int branch) { return first_tap(branch) + branch; }

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

// The same number, which the compiler cannot know to be: what is worked out from it need not wait in registers, and it
// is not worked out again where it does.
__device__ __forceinline__ int unseen(int v) {
#ifdef __CUDACC__
  asm volatile("" : "+r"(v));
#endif
  return v;
}

}  // namespace aminet::rdfe
