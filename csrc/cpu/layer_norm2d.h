// Between the torch side (layer_norm2d.cpp) and the loops (kernels/layer_norm2d.cpp), which know nothing of torch's tensors.
#pragma once

#include <cstdint>

#include "cpu/capability.h"
#include "cpu/scalar.h"

namespace aminet {

// Statistics, weights and sums are float, or double where the data is double ("Acc" below).
struct LayerNormShape {
  int64_t images, channels, pixels;
  bool channels_last;  // data is [image][pixel][channel]; otherwise [image][channel][pixel]
};

struct LayerNormForward {
  LayerNormShape shape;
  const void* x;       // data
  const void* weight;  // Acc [channels]
  const void* bias;    // Acc [channels]
  double eps;
  void* y;     // data
  void* mean;  // Acc [images][pixels]
  void* rstd;  // Acc [images][pixels]
};

struct LayerNormBackward {
  LayerNormShape shape;
  const void* dy;      // data
  const void* x;       // data
  const void* weight;  // Acc [channels]
  const void* mean;    // Acc [images][pixels]
  const void* rstd;    // Acc [images][pixels]
  void* dx;            // data
  void* partial;       // Acc [chunks][2][channels], zeroed: sums for weight and bias
  int64_t chunks;      // the blocks are cut into this many runs, whatever the number of threads
};

// Work is counted in blocks of at most this many neighbouring pixels of one image.
constexpr int64_t kLayerNormBlock = 64;

inline int64_t layer_norm_blocks(const LayerNormShape& shape) {
  return shape.images * ((shape.pixels + kLayerNormBlock - 1) / kLayerNormBlock);
}

struct LayerNormKernels {
  void (*forward)(Scalar, const LayerNormForward&, int64_t first_block, int64_t last_block);
  void (*backward)(Scalar, const LayerNormBackward&, int64_t first_chunk, int64_t last_chunk);
};

#define AMINET_DECLARE(capability) namespace capability { extern const LayerNormKernels layer_norm2d; }
AMINET_FOR_EACH_CAPABILITY(AMINET_DECLARE)
#undef AMINET_DECLARE

}  // namespace aminet
