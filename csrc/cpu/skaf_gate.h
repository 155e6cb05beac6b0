// Between the torch side (skaf_gate.cpp) and the loops (kernels/skaf_gate*.cpp), which know nothing of torch's tensors.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/capability.h"
#include "cpu/scalar.h"

namespace aminet {

// The pairs of maps that the convolution runs over, m and the gradient before the sigmoid, are kept as Acc planes
// with a border of zeros, so that no tap needs a test: [image][2][height + kernel - 1][pitch].
struct SkafGateShape {
  int64_t images, channels, height, width, kernel;
  bool channels_last;  // data is [image][pixel][channel]; otherwise [image][channel][pixel]

  int64_t pixels() const { return height * width; }
  int64_t border() const { return kernel / 2; }
  int64_t filters() const { return 4 * kernel * kernel; }  // elements of the convolution's weight
  // A row rounded up to whole vectors (of any capability), and the border.
  int64_t wide() const { return (width + 15) / 16 * 16; }
  int64_t pitch() const { return wide() + kernel - 1; }
  int64_t plane() const { return (height + kernel - 1) * pitch(); }
  int64_t bordered_row(int64_t image, int64_t map, int64_t row) const {
    return (image * 2 + map) * plane() + row * pitch();
  }

  // Passes over the data count work in blocks of whole rows of one image, of about 128 pixels.
  int64_t block_rows() const { return std::clamp<int64_t>(128 / width, 1, height); }
  int64_t image_blocks() const { return (height + block_rows() - 1) / block_rows(); }
};

struct SkafGateForward {
  SkafGateShape shape;
  const void* maps;      // Acc, bordered m
  const void* weight;    // Acc [2 out][2 in][kernel][kernel]
  const void* bias;      // Acc [2]
  const void* g;         // data
  const void* l;         // data
  const void* residual;  // data, or null
  void* y;               // data
  void* gates;           // Acc [image][2][pixel]
};

// The pass over the data: gradients of the branches, and of the convolution's output from their sums over the channels.
struct SkafGateBranches {
  SkafGateShape shape;
  const void* dy;     // data
  const void* g;      // data
  const void* l;      // data
  const void* gates;  // Acc [image][2][pixel]
  void* dg;           // data, or null with dl
  void* dl;           // data, or null with dg
  void* dz;           // Acc, bordered, its border zeroed; or null
};

// The passes over the two maps, small beside the data.
struct SkafGateMaps {
  SkafGateShape shape;
  const void* dz;       // Acc, bordered
  const void* maps;     // Acc, bordered m
  const void* flipped;  // Acc [2 in][2 out][kernel][kernel], the weight turned by half a turn
  void* dm;             // Acc [image][2][pixel], or null
  void* partial;        // Acc [chunks][filters + 2]: sums for weight and bias; or null
  int64_t chunks;       // the rows of all images are cut into this many runs, whatever the number of threads
};

struct SkafGateKernels {
  void (*forward)(Scalar, const SkafGateForward&, int64_t first_block, int64_t last_block);
  void (*branches)(Scalar, const SkafGateBranches&, int64_t first_block, int64_t last_block);
  void (*maps)(Scalar, const SkafGateMaps&, int64_t first_chunk, int64_t last_chunk);
};

#define AMINET_DECLARE(capability) namespace capability { extern const SkafGateKernels skaf_gate; }
AMINET_FOR_EACH_CAPABILITY(AMINET_DECLARE)
#undef AMINET_DECLARE

}  // namespace aminet
