// What the torch sides of skaf_descriptor's CUDA kernels share: the convolutions of a call, and their packed weights.
#pragma once

#include <optional>
#include <vector>

#include "cuda/skaf_descriptor.cuh"
#include "cuda/tensors.h"

namespace aminet::skaf {

inline Convs convs_of(const std::vector<Tensor>& weights) {
  STD_TORCH_CHECK(!weights.empty() && weights.size() <= kMostConvs, "skaf_descriptor: one or two convolutions");
  Convs convs = {};
  convs.count = static_cast<int>(weights.size());
  convs.inputs = static_cast<int>(weights[0].size(1));
  convs.padded = ceil_div(convs.inputs, kVector) * kVector;
  for (int i = 0; i < convs.count; ++i) {
    const Tensor& weight = weights[i];
    const int64_t k = weight.size(2);
    STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == convs.inputs && k == weight.size(3) && k % 2 == 1 &&
                        k <= kMostWindow,
                    "skaf_descriptor: each of weights must be [C_k, C, k, k] of odd k up to 7");
    convs.size[i] = static_cast<int>(k);
    convs.window = std::max(convs.window, convs.size[i]);
    convs.first[i + 1] = convs.first[i] + static_cast<int>(weight.size(0));
  }
  convs.total = convs.first[convs.count];
  if (convs.count == 1) convs.first[2] = convs.total;
  convs.taps = convs.window * convs.window;
  STD_TORCH_CHECK(static_cast<int64_t>(convs.total) * convs.taps * convs.padded < INT32_MAX,
                  "skaf_descriptor: too many weights");
  return convs;
}

inline void check_saved(const Tensor& dm, const Tensor& argmax) {
  STD_TORCH_CHECK(dm.dim() == 4 && dm.size(1) == 2 && argmax.scalar_type() == ScalarType::Int && argmax.dim() == 3 &&
                      argmax.size(0) == dm.size(0) && argmax.size(1) == dm.size(2) && argmax.size(2) == dm.size(3),
                  "skaf_descriptor: dm must be [N, 2, H, W] and argmax int32 [N, H, W]");
}

inline Image image_of(const Tensor& t) {
  return {t.size(0), static_cast<int>(t.size(2)), static_cast<int>(t.size(3))};
}

inline Tensor room_beside(const Tensor& t, const std::vector<int64_t>& size, ScalarType type) {
  return torch::stable::empty(size, type, std::nullopt, t.device());
}

// [total][taps][padded] of `like`'s dtype: `packed` where it is that, and the rows' mean behind them, which is not read
// here. tf32: rounded to it, which `packed` is not.
inline Tensor packed_of(const Tensor& like, const std::vector<Tensor>& weights, const Convs& convs,
                        const std::optional<Tensor>& packed, cudaStream_t stream, bool tf32 = false) {
  const int length = convs.taps * convs.padded;
  const int64_t size = static_cast<int64_t>(convs.total) * length;
  if (packed && packed->scalar_type() == like.scalar_type() && packed->numel() == size + length &&
      packed->is_contiguous() && !tf32)
    return *packed;
  Tensor found = room_beside(like, {size}, like.scalar_type());
  Weights from = {};
  for (int i = 0; i < convs.count; ++i) {
    from.data[i] = weights[i].const_data_ptr();
    from.single[i] = weights[i].scalar_type() == ScalarType::Float;
    for (int d = 0; d < 4; ++d) from.stride[i].of[d] = weights[i].stride(d);
  }
  by_dtype(like, [&](auto type) {
    using T = typename decltype(type)::type;
    AMINET_LAUNCH((pack_kernel<T>), dim3(convs.total, ceil_div(length, 256)), 256, 0, stream, convs, from,
                  room_of<T>(found), tf32);
  });
  return found;
}

}  // namespace aminet::skaf
