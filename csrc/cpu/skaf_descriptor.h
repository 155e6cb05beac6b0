// Between the torch side (skaf_descriptor.cpp) and the loops (kernels/skaf_descriptor*), which know nothing of tensors.
//
// u = the outputs of all convolutions, channel after channel; m = its mean and its max over the channels. The gradient
// of u is then dm_mean / total in every channel and dm_max more in the channel of the max; it is never written out.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/capability.h"
#include "cpu/scalar.h"

namespace aminet {

// One convolution of odd size. Images and weights have their channels innermost everywhere.
struct SkafConv {
  int64_t size;        // k
  int64_t channels;    // of its output
  const void* u;       // data [images of the chunk][pixels][channels]; forward
  const void* weight;  // Acc [channels][k][k][inputs]; gradient of x
  void* dweight;       // Acc, as weight; gradient of the parameters
  void* dbias;         // Acc [channels]
};

struct SkafShape {
  int64_t images, inputs, height, width;
  int64_t total;  // channels of all convolutions
  int64_t size;   // of the largest convolution: the taps of all are counted in its window
};

struct SkafPool {
  SkafShape shape;
  std::vector<SkafConv> convs;
  int64_t first_image;  // that u starts with
  void* m;              // data [images][2][pixels]
  int32_t* argmax;      // [images][pixels]
};

struct SkafBackwardInput {
  SkafShape shape;
  std::vector<SkafConv> convs;
  const void* dm;         // Acc [images][2][pixels]
  const int32_t* argmax;  // [images][pixels]
  void* sum;              // Acc [size][size][inputs rounded up to kSkafPadding]: the kernels of all channels added
  void* dx;               // data [images][pixels][inputs]
};

// Pixels of one tile, sorted by the channel of the max, each as the place of its window in the padded image.
struct SkafTile {
  int64_t first_row, last_row;  // of image * height + row
  std::vector<int64_t> start;   // [total + 1]: where a channel's pixels begin
  std::vector<int64_t> window;
};

struct SkafBackwardParameters {
  SkafShape shape;
  std::vector<SkafConv> convs;
  const void* x;          // data [images][pixels][inputs]
  const void* dm;         // Acc [images][2][pixels]
  const int32_t* argmax;  // [images][pixels]
  void* padded;           // Acc [images][height + size - 1][width + size - 1][inputs], kSkafPadding more at the end
  void* gain;             // Acc [images][pixels]: dm_max in the order of the tiles
  void* mean;             // Acc [mean_chunks][size * size * inputs + 1]: what every channel gets, its bias last
  int64_t mean_chunks;    // the rows are cut into this many runs, whatever the number of threads
  std::vector<SkafTile> tiles;
};

// Elements that a vector may reach beyond the last channel.
constexpr int64_t kSkafPadding = 16;

inline int64_t skaf_padded_inputs(const SkafShape& s) {
  return (s.inputs + kSkafPadding - 1) / kSkafPadding * kSkafPadding;
}

// Ranges are pixels (pool), rows of the window (sum_kernels), rows of all images (dx; with their borders: pad), chunks
// (mean), tiles (sort), and pairs of row of the window and channel (weights: pair = row * total + channel).
struct SkafKernels {
  void (*pool)(Scalar, const SkafPool&, int64_t first, int64_t last);
  void (*sum_kernels)(Scalar, const SkafBackwardInput&, int64_t first, int64_t last);
  void (*dx)(Scalar, const SkafBackwardInput&, int64_t first, int64_t last);
  void (*pad)(Scalar, const SkafBackwardParameters&, int64_t first, int64_t last);
  void (*sort)(Scalar, SkafBackwardParameters&, int64_t first, int64_t last);
  void (*mean)(Scalar, const SkafBackwardParameters&, int64_t first, int64_t last);
  void (*add_means)(Scalar, const SkafBackwardParameters&);
  void (*weights)(Scalar, const SkafBackwardParameters&, int64_t first, int64_t last);
};

#define AMINET_DECLARE(capability) namespace capability { extern const SkafKernels skaf_descriptor; }
AMINET_FOR_EACH_CAPABILITY(AMINET_DECLARE)
#undef AMINET_DECLARE

}  // namespace aminet
