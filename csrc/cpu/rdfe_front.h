// Between the torch side (rdfe_front.cpp) and the loops (kernels/rdfe_front*), which know nothing of torch's tensors.
//
// Images are [image][row][pixel][channel] of Acc everywhere (float, or double); other layouts and dtypes are converted
// around the loops. The depthwise part works on blocks of channels, padded with zeros to a multiple of 8; a block's
// channels are neighbours in everything that the kernels make.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/capability.h"
#include "cpu/scalar.h"

namespace aminet {

struct RdfeShape {
  int64_t images, channels, height, width, hidden;
  std::vector<int64_t> kernels;

  int64_t branches() const { return static_cast<int64_t>(kernels.size()); }
  int64_t size() const { return *std::max_element(kernels.begin(), kernels.end()); }  // of the largest kernel
  int64_t border() const { return size() / 2; }
  int64_t taps() const {
    int64_t sum = 0;
    for (int64_t k : kernels) sum += k * k;
    return sum;
  }
  int64_t pixels() const { return height * width; }
  int64_t blocks() const { return (channels + 47) / 48; }
  int64_t block() const { return ((channels + blocks() - 1) / blocks() + 7) / 8 * 8; }
  int64_t padded() const { return blocks() * block(); }

  // An image is cut into bands of rows, whose borders are computed twice: as many as give a few units of work, but of
  // no fewer rows than `least`. The shape alone decides.
  int64_t bands(int64_t units, int64_t least) const {
    return std::clamp<int64_t>((8 + units - 1) / units, 1, std::max<int64_t>(1, height / least));
  }
  int64_t forward_bands() const { return bands(images, 8); }
  int64_t backward_bands() const { return bands(images * blocks(), 32); }
};

// The parameters as the kernels want them, Acc. Depthwise weights are [block][branch][tap][channel of the block],
// biases [block][branch][channel of the block].
struct RdfeParameters {
  const void *weight1, *bias1, *weight2, *bias2;
  const void* reduce_weight;  // [hidden][branch][channel]
  const void* reduce_bias;    // [hidden]
  const void* expand_weight;  // [channel][hidden]
  const void* expand_bias;    // [channel]
  const void* fuse;           // forward: [branch][block][channel of the block][padded outputs]
                              // backward: [block][branch][output][channel of the block]
  const void* fuse_bias;      // [channel]
};

struct RdfeForward {
  RdfeShape shape;
  RdfeParameters parameters;
  const void* y;
  void* z;
  void* a;     // [image][channel]
  void* sums;  // [image][size][size][channel]: sums of y over the pixels that a tap of the largest kernel meets
};

// What one unit of the backward (image, band, block of channels) adds up, in this order: gradients of the second
// weights before `a`, of the first without the attention unit's part, sums of the gradient of f without that part, sums
// of dz, and the gradient of the fusing weight as [branch][output][channel of the block].
struct RdfePartial {
  int64_t weight2, weight1, f, z, fuse, total;
  explicit RdfePartial(const RdfeShape& s) {
    weight2 = 0;
    weight1 = weight2 + s.taps() * s.block();
    f = weight1 + s.taps() * s.block();
    z = f + s.branches() * s.block();
    fuse = z + s.block();
    total = fuse + s.branches() * s.channels * s.block();
  }
};

struct RdfeBackward {
  RdfeShape shape;
  RdfeParameters parameters;
  const void *dz, *y, *a, *sums;
  bool need_parameters;
  void* dy;        // or null
  void* partial;   // [image][band][block] of RdfePartial
  void* constant;  // [image][branch][channel]: the gradient of f through the attention unit, the same at every pixel
  void* spread;    // [image][size][size][channel]: what it adds to dy; rows and columns by their distance to the border
  // Gradients of the parameters in torch's layouts, zeroed; one weight and bias a branch.
  std::vector<void*> dweight1, dbias1, dweight2, dbias2;
  void *dreduce_weight, *dreduce_bias, *dexpand_weight, *dexpand_bias, *dfuse, *dfuse_bias;
};

// Ranges are images (attend, spread), image x band (forward rows), image x band x block (backward rows), rows of all
// images (add_spread), outputs (fuse).
struct RdfeFrontKernels {
  void (*attend)(Scalar, const RdfeForward&, int64_t first, int64_t last);
  void (*rows)(Scalar, const RdfeForward&, int64_t first, int64_t last);
};

struct RdfeFrontBackwardKernels {
  void (*rows)(Scalar, const RdfeBackward&, int64_t first, int64_t last);
  void (*attend)(Scalar, const RdfeBackward&);
  void (*spread)(Scalar, const RdfeBackward&, int64_t first, int64_t last);
  void (*add_spread)(Scalar, const RdfeBackward&, int64_t first, int64_t last);
  void (*fuse)(Scalar, const RdfeBackward&, int64_t first, int64_t last);
};

#define AMINET_DECLARE(capability)                   \
  namespace capability {                             \
  extern const RdfeFrontKernels rdfe_front;          \
  extern const RdfeFrontBackwardKernels rdfe_front_backward; \
  }
AMINET_FOR_EACH_CAPABILITY(AMINET_DECLARE)
#undef AMINET_DECLARE

}  // namespace aminet
