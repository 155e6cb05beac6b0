// Between skaf_descriptor.cpp and kernels/skaf_winograd.cpp: the forward of conv5x5 and conv7x7 by Winograd, float32.
//
// F(2 x 2, 7 x 7) and F(4 x 4, 5 x 5) have the same eight points. The 7x7's tile (i, j) makes the pixels (2i, 2j) to
// (2i + 1, 2j + 1) from (2i - 3, 2j - 3) to (2i + 4, 2j + 4); the 5x5's tile (i, j) makes those from (4i - 1, 4j - 1)
// to (4i + 2, 4j + 2) and reads just what the 7x7's tile (2i, 2j) reads. So one transformed input serves both:
// 16 + 4 products a pixel and pair of channels where the convolutions have 49 + 25.
#pragma once

#include <cstdint>

#include "cpu/capability.h"
#include "cpu/winograd.h"

namespace aminet {

constexpr int64_t kSkafWinogradPoints = 8;

struct SkafWinogradConv {
  int64_t outputs;
  const float* bias;
  const float* u;  // as csrc/cpu/winograd.h has it
  // [images][pixels]: over this convolution's outputs
  float* sum;
  float* best;
  int32_t* found;
};

struct SkafWinograd {
  int64_t images, inputs, height, width;
  int64_t groups;            // of 2 x 2 tiles of the 7x7 and one of the 5x5, in one block
  SkafWinogradConv five, seven;
  const float* x;            // [images][pixels][inputs]
  float* m;                  // [images][2][pixels]
  int32_t* argmax;           // [images][pixels]

  int64_t group_rows() const { return height / 4 + 1; }
  int64_t group_columns() const { return width / 4 + 1; }
  int64_t blocks() const { return (images * group_rows() * group_columns() + groups - 1) / groups; }
};

// weights: the blocks [first, last) of kWinogradOutputs outputs, of one [outputs][k][k][inputs] into u.
// blocks: the maps of blocks [first, last). combine: m and argmax of the pixels [first, last) of all images from them.
struct SkafWinogradKernels {
  void (*weights)(const float* weight, int64_t size, int64_t outputs, int64_t inputs, int64_t first, int64_t last,
                  float* u);
  void (*blocks)(const SkafWinograd&, int64_t first, int64_t last);
  void (*combine)(const SkafWinograd&, int64_t first, int64_t last);
};

#define AMINET_DECLARE(capability) namespace capability { extern const SkafWinogradKernels skaf_winograd; }
AMINET_FOR_EACH_CAPABILITY(AMINET_DECLARE)
#undef AMINET_DECLARE

}  // namespace aminet
