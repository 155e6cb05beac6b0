// Between the torch side (channel_attention.cpp) and the loops (kernels/channel_attention*), which know nothing of
// torch's tensors.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/capability.h"
#include "cpu/scalar.h"

namespace aminet {

// The work is cut into runs of rows of one image ("units"): a number that depends on the shape alone, so that the
// result does not depend on the threads. Units begin with rows of their neighbours: fewer of them means less work.
constexpr int64_t kAttentionUnitRows = 32;
// A unit goes down its rows in bands of about this many pixels, which stay in cache from the 1x1 convolution to the sums.
constexpr int64_t kAttentionBandPixels = 512;

struct ChannelAttentionShape {
  int64_t images, channels, heads, height, width;
  bool channels_last;  // data is [image][pixel][channel]; otherwise [image][channel][pixel]
  bool normalised;     // q and k; otherwise q k^T is divided by sqrt(pixels)

  int64_t head() const { return channels / heads; }
  int64_t pixels() const { return height * width; }
  int64_t image_units() const { return (height + kAttentionUnitRows - 1) / kAttentionUnitRows; }
  int64_t units() const { return images * image_units(); }
  int64_t unit_rows() const { return (height + image_units() - 1) / image_units(); }
  int64_t band_rows() const { return std::clamp<int64_t>(kAttentionBandPixels / width, 1, unit_rows()); }
  int64_t gram() const { return channels * head(); }  // elements of q k^T of all heads
  // Channels rounded up to whole vectors (of any capability): the length of a row of a matrix [C][C].
  int64_t padded() const { return (channels + 15) / 16 * 16; }
  int64_t sums() const { return gram() + 2 * channels; }
};

// Parameters, as Acc.
struct ChannelAttentionWeights {
  const void* qkv;          // [3C][C]
  const void* depthwise;    // [3C][9]
  const void* temperature;  // [heads], or null
  const void* projection;   // [C][C]
};

struct ChannelAttentionForward {
  ChannelAttentionShape shape;
  ChannelAttentionWeights weights;
  const void* x;  // data
  void* y;        // data
  void* v;        // Acc, stored as data is: v between the two passes; y itself where data is Acc
  void* kept;     // Acc [image][3C][pixel], the 1x1 convolution's output for the backward; or null
  void* sums;     // Acc [unit][sums]: q k^T, then the squared norms of q's and of k's channels
  void* gram;     // Acc [image][sums], the same of whole images
  void* attn;     // Acc [image][C][head], after the softmax
  void* fused;    // Acc [image][C in][padded out]: (projection * blockdiag(attn))^T
};

struct ChannelAttentionBackward {
  ChannelAttentionShape shape;
  ChannelAttentionWeights weights;
  const void* dy;    // data
  const void* x;     // data
  const void* kept;  // the forward's, or null
  const void* gram;  // the forward's
  const void* attn;  // the forward's
  void* dfused;      // Acc [unit][C in][padded out]: sums of v dy^T
  void* fused;       // as the forward's
  void* mix_q;       // Acc [image][C][head]: dq = mix_q k + scale_q * q
  void* mix_k;       // Acc [image][C][head]: dk = mix_k q + scale_k * k
  void* scales;      // Acc [image][2][C]
  void* dprojection; // Acc [image][C in][padded out]
  void* dtemperature;  // Acc [image][heads]
  void* dx;            // data, or null
  void* partial;       // Acc [task][3C * C + 3C * 9], sums for the two convolutions' weights
  bool need_qkv;       // the gradient of the 1x1 convolution's weight
  int64_t tasks;       // the units are cut into this many runs
};

struct ChannelAttentionKernels {
  void (*gram)(Scalar, const ChannelAttentionForward&, int64_t first_unit, int64_t last_unit);
  void (*softmax)(Scalar, const ChannelAttentionForward&, int64_t first_image, int64_t last_image);
  void (*project)(Scalar, const ChannelAttentionForward&, int64_t first_unit, int64_t last_unit);
  void (*dfused)(Scalar, const ChannelAttentionBackward&, int64_t first_unit, int64_t last_unit);
  void (*dsoftmax)(Scalar, const ChannelAttentionBackward&, int64_t first_image, int64_t last_image);
  void (*dqkv)(Scalar, const ChannelAttentionBackward&, int64_t first_task, int64_t last_task);
};

#define AMINET_DECLARE(capability) namespace capability { extern const ChannelAttentionKernels channel_attention; }
AMINET_FOR_EACH_CAPABILITY(AMINET_DECLARE)
#undef AMINET_DECLARE

}  // namespace aminet
