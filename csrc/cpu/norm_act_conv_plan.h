// What norm_act_conv's torch sides (norm_act_conv.cpp, norm_act_conv_bwd.cpp) share: shapes, padding, scratch.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "cpu/moments.h"
#include "cpu/parallel.h"

namespace aminet {

// Scratch for about so many bytes of images at a time: it stays in cache between the passes.
constexpr int64_t kScratchBytes = 4 << 20;

struct ConvOptions {
  double slope;
  int64_t stride;
  bool reflect, upsample;
};

struct ConvPlan {
  NormActConvShape shape;
  ConvOptions options;
  PadAxis rows, columns;
  Scalar scalar;
  ScalarType acc;
  Tensor x, scale, shift;  // x channels_last, the others of type acc

  // The channels_last x from one image on.
  NormAct from_image(int64_t image) const {
    const int64_t element = x.element_size();
    const int64_t skipped = image * shape.height * shape.width * shape.channels * element;
    return {shape, &rows, &columns, static_cast<const char*>(x.const_data_ptr()) + skipped,
            scale.const_data_ptr(), shift.const_data_ptr(), options.slope};
  }

  int64_t images_at_once(int64_t bytes_per_image) const {
    return std::clamp<int64_t>(kScratchBytes / std::max<int64_t>(1, bytes_per_image), 1, shape.images);
  }
};

inline PadAxis pad_axis(int64_t size, int64_t factor, bool reflect, bool replicate) {
  PadAxis axis;
  const int64_t padded = size * factor;
  std::vector<std::vector<int64_t>> places(size);
  for (int64_t i = -1; i <= padded; ++i) {
    int64_t from = i;
    if (i < 0) from = !reflect ? -1 : replicate || padded == 1 ? 0 : 1;
    if (i == padded) from = !reflect ? -1 : replicate || padded == 1 ? padded - 1 : padded - 2;
    axis.source.push_back(from < 0 ? -1 : from / factor);
    if (from >= 0) places[from / factor].push_back(i + 1);
  }
  for (const std::vector<int64_t>& of : places) {
    axis.start.push_back(static_cast<int64_t>(axis.place.size()));
    axis.place.insert(axis.place.end(), of.begin(), of.end());
  }
  axis.start.push_back(static_cast<int64_t>(axis.place.size()));
  return axis;
}

// in_type: whether the data is of the sums' type. Low precision is left to the convolutions of oneDNN, which have
// instructions for it.
inline Tiling tiling_of(bool in_type, int64_t stride, bool upsample) {
  if (!in_type || (stride == 2 && upsample)) return Tiling::none;
  return upsample ? Tiling::doubled : stride == 2 ? Tiling::strided : Tiling::winograd;
}

inline ConvPlan plan_of(const Tensor& input, const Tensor& scale, const Tensor& shift, const Tensor& weight,
                        const ConvOptions& options) {
  STD_TORCH_CHECK(input.dim() == 4 && input.numel() > 0,
                  "norm_act_conv: x must be [N, C, H, W] with every size at least 1");
  const int64_t C = input.size(1);
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) > 0 && weight.size(1) == C && weight.size(2) == 3 &&
                      weight.size(3) == 3,
                  "norm_act_conv: weight must be [K, C, 3, 3]");
  STD_TORCH_CHECK(scale.numel() == C && shift.numel() == C, "norm_act_conv: scale and shift must be [C]");
  STD_TORCH_CHECK(options.stride == 1 || options.stride == 2, "norm_act_conv: stride must be 1 or 2");
  const Tensor x = laid_out(input, MemoryFormat::ChannelsLast);
  const ScalarType acc = acc_of(x);
  const int64_t factor = options.upsample ? 2 : 1, H = x.size(2), W = x.size(3);
  const Tiling tiling = tiling_of(x.scalar_type() == acc, options.stride, options.upsample);
  const bool tiled = tiling != Tiling::none;
  const NormActConvShape shape = {x.size(0), C, H, W, weight.size(0), (H * factor - 1) / options.stride + 1,
                                  (W * factor - 1) / options.stride + 1, tiling};
  // Reflecting what nearest x2 has made is replicating what it was made from.
  const int64_t padded_factor = tiled ? 1 : factor;
  const bool replicate = tiled && options.upsample;
  return {shape,
          options,
          pad_axis(H, padded_factor, options.reflect, replicate),
          pad_axis(W, padded_factor, options.reflect, replicate),
          scalar_of(x),
          acc,
          x,
          parameter_of(scale, acc),
          parameter_of(shift, acc)};
}

inline Tensor empty_image(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  return torch::stable::empty({n, c, h, w}, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

// Of channels_last weights, in the type of the sums or the data's.
inline Tensor weight_of(const Tensor& weight, ScalarType type) {
  return laid_out(converted(weight, type), MemoryFormat::ChannelsLast);
}

inline const void* at_image(const Tensor& t, int64_t image) {
  const int64_t size = t.size(1) * t.size(2) * t.size(3) * static_cast<int64_t>(t.element_size());
  return static_cast<const char*>(t.const_data_ptr()) + image * size;
}
inline void* at_image(Tensor& t, int64_t image) {
  return const_cast<void*>(at_image(static_cast<const Tensor&>(t), image));
}

// The padded activation of some images, a tensor [images, C, rows, columns] for torch's convolution.
inline void pad_images(const ConvPlan& plan, int64_t first, int64_t images, Tensor& padded) {
  const PadPass arguments = {plan.from_image(first), padded.mutable_data_ptr()};
  const NormActConvKernels& kernels = AMINET_PICK(norm_act_conv);
  parallel_for(
      0, images * plan.rows.size(), moment_grain(plan.columns.size() * plan.shape.channels),
      [&](int64_t a, int64_t b) { kernels.pad(plan.scalar, arguments, a, b); });
}

}  // namespace aminet
