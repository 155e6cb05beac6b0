// Between the torch side (multiscale_dwconv.cpp) and the loops (kernels/multiscale_dwconv.cpp), which know nothing of
// torch's tensors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/capability.h"
#include "cpu/scalar.h"

namespace aminet {

// Data are channels-last, [image][row][pixel][channel]. The work is cut into units, which the threads share: some rows
// of some channels of one image, a number that depends on the shape alone.
struct MultiscaleShape {
  static constexpr int64_t kBlockChannels = 48;  // the rows and weights that one strip of pixels needs stay in L1
  static constexpr int64_t kUnits = 16, kUnitRows = 16;

  int64_t images, channels, height, width;

  // Blocks are equal, of whole vectors; the last one has what is left.
  int64_t block() const {
    const int64_t count = (channels + kBlockChannels - 1) / kBlockChannels;
    return count == 1 ? channels : ((channels + count - 1) / count + 15) / 16 * 16;
  }
  int64_t blocks() const { return (channels + block() - 1) / block(); }
  // Each chunk of an image's rows also loads the border rows of its neighbours, so there are no more than needed.
  int64_t chunks() const {
    const int64_t wanted = (kUnits + images * blocks() - 1) / (images * blocks());
    return std::clamp<int64_t>(wanted, 1, (height + kUnitRows - 1) / kUnitRows);
  }
  int64_t slabs() const { return images * chunks(); }
  int64_t units() const { return slabs() * blocks(); }
};

struct MultiscaleBranch {
  int64_t kernel;
  const void* x;       // data; one for all branches if shared
  const void* weight;  // Acc [block][kernel * kernel][channel of block]; in the backward turned by half a turn
  const void* bias;    // Acc [channels], or null
  void* y;             // data
  const void* dy;      // data
  void* dx;            // data, or null; of the first branch if shared
  int64_t sums;        // where a slab has this branch's gradients: of the weight, laid out as that, then of the bias

  int64_t taps() const { return kernel * kernel; }
};

struct MultiscaleDwconv {
  MultiscaleShape shape;
  bool shared;
  std::vector<MultiscaleBranch> branches;
  const void* scale;  // Acc [image][channel], or null
  bool need_weights, need_scale;
  void* partial;       // Acc [image][chunk][slab]: sums over the rows of a chunk; null when neither of these
  int64_t slab;        // its size
  int64_t scale_sums;  // where a slab has the gradient of the scale, [channel]
};

struct MultiscaleKernels {
  void (*forward)(Scalar, const MultiscaleDwconv&, int64_t first_unit, int64_t last_unit);
  void (*backward)(Scalar, const MultiscaleDwconv&, int64_t first_unit, int64_t last_unit);
};

#define AMINET_DECLARE(capability) namespace capability { extern const MultiscaleKernels multiscale_dwconv; }
AMINET_FOR_EACH_CAPABILITY(AMINET_DECLARE)
#undef AMINET_DECLARE

}  // namespace aminet
