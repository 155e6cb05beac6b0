// What the torch side of multiscale_dwconv makes of its arguments before it launches: checks, pointers, tiles.
// Include it after tensors.h.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/multiscale_dwconv_tile.cuh"

namespace aminet::multiscale {
namespace {

constexpr int kBlocks = 264;  // that are wanted: two on each of 132 multiprocessors
constexpr int kLeastRows = 8;  // of a band, which loads six more, unless the image has fewer

// Tensors as kernels want them, kept while they are used.
class Kept {
 public:
  explicit Kept(const Tensor& like) : dtype_(like.scalar_type()) {}

  template <typename T>
  const T* image(const Tensor& x) {
    const T* data = data_of<T>(kept_.emplace_back(laid_out(converted(x, dtype_), MemoryFormat::ChannelsLast)));
    aligned = aligned && reinterpret_cast<uintptr_t>(data) % 16 == 0;
    return data;
  }

  Parameter parameter(const Tensor& p) {
    const ScalarType type = p.scalar_type() == dtype_ ? dtype_ : ScalarType::Float;
    return {kept_.emplace_back(parameter_of(p, type)).const_data_ptr(), type == ScalarType::Float};
  }

  bool aligned = true;  // all images

 private:
  ScalarType dtype_;
  std::vector<Tensor> kept_;
};

Gradient gradient_of(Tensor& t) { return {t.mutable_data_ptr(), t.scalar_type() == ScalarType::Float}; }

std::vector<int> kernels_of(const std::vector<Tensor>& weights) {
  std::vector<int> kernels;
  for (const Tensor& weight : weights) kernels.push_back(int(weight.size(-1)));
  return kernels;
}

// Where each branch is in a call: where they share x, in the order 3, 5, 7, which its kernels are written in.
std::vector<int> order_of(const std::vector<int>& kernels, bool shared) {
  std::vector<int> order(kernels.size());
  for (size_t k = 0; k < order.size(); ++k) order[k] = int(k);
  if (shared) std::sort(order.begin(), order.end(), [&](int a, int b) { return kernels[a] < kernels[b]; });
  return order;
}

// most_rows: of a band; most_parts: of a tile, whose shared memory they widen.
Tiling tiling_of(const Tensor& x, int pixels, bool aligned, int64_t branches, int most_rows, int most_parts) {
  Tiling t = {};
  const int64_t images = x.size(0);
  t.channels = int(x.size(1)), t.height = int(x.size(2)), t.width = int(x.size(3));
  const int slices = ceil_div(t.channels, kLanes), all = kGroups * pixels;
  t.parts = 1;
  const auto widens = [&] { return t.width <= all / t.parts / 2 || (t.parts == 1 && slices % 2 == 0); };
  while (t.parts < most_parts && t.parts < slices && widens()) t.parts *= 2;
  t.margined = (all + 2 * kReach * t.parts) * kLanes;
  t.slices = ceil_div(slices, t.parts);
  t.strips = ceil_div(t.width, all / t.parts);
  const int64_t tiles = images * t.slices * t.strips * branches;
  const int64_t wanted = std::max<int64_t>(ceil_div<int64_t>(kBlocks, tiles), ceil_div(t.height, most_rows));
  t.band = ceil_div(t.height, int(std::min<int64_t>(wanted, ceil_div(t.height, kLeastRows))));
  t.bands = ceil_div(t.height, t.band);
  t.vectors = aligned && t.channels * x.element_size() % 16 == 0;
  return t;
}

void check(const Tensor& first, const std::vector<Tensor>& x, const std::vector<Tensor>& weights) {
  STD_TORCH_CHECK(first.dim() == 4 && first.size(1) * first.size(2) * first.size(3) < (int64_t(1) << 30),
                  "multiscale_dwconv: x must be [N, C, H, W] with images of less than 2**30 elements");
  STD_TORCH_CHECK(!weights.empty() && weights.size() <= kBranches && (x.size() == 1 || x.size() == weights.size()),
                  "multiscale_dwconv: one to three weights, and one x or one for each of them");
  for (const Tensor& weight : weights)
    STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) == first.size(1) && weight.size(1) == 1 &&
                        weight.size(2) == weight.size(3) &&
                        (weight.size(3) == 3 || weight.size(3) == 5 || weight.size(3) == 7),
                    "multiscale_dwconv: weights must be [C, 1, K, K] with K of 3, 5, 7");
  for (const Tensor& image : x)
    STD_TORCH_CHECK(image.numel() == first.numel(), "multiscale_dwconv: images must have one shape");
  auto kernels = kernels_of(weights);
  std::sort(kernels.begin(), kernels.end());
  STD_TORCH_CHECK(x.size() == weights.size() || kernels == std::vector<int>({3, 5, 7}),
                  "multiscale_dwconv: branches that share x must be 3, 5 and 7");
}

}  // namespace
}  // namespace aminet::multiscale
