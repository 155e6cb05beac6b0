// The launches of multiscale_dwconv's passes, for its torch side and for rdfe_front's. Include it after tensors.h.
#pragma once

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "cuda/multiscale_dwconv_call.h"
#include "cuda/multiscale_dwconv_filter.cuh"
#include "cuda/multiscale_dwconv_fold.cuh"
#include "cuda/multiscale_dwconv_sums.cuh"

namespace aminet::multiscale {
namespace {

// Blocks of a launch, x and y; there are never 2**31.
dim3 grid_of(int64_t blocks, int64_t branches) {
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "multiscale_dwconv: too many images");
  return dim3(unsigned(blocks), unsigned(branches), 1);
}

enum class Pass { kSpread, kEach, kSummed };

// y, or with taps turned dx, of images that `from` has: in the order of the weights. biases: [C], or [N, C] of every image
// its own.
template <typename T>
void filter(Pass pass, const std::vector<Tensor>& from, const std::vector<Tensor>& weights,
            const std::vector<Tensor>& biases, const std::optional<Tensor>& scale, bool turned, std::vector<Tensor>& to,
            cudaStream_t stream) {
  Kept kept(from[0]);
  FilterCall<T> call = {};
  const auto kernels = kernels_of(weights), order = order_of(kernels, pass != Pass::kEach);
  for (size_t k = 0; k < order.size(); ++k) {
    const size_t i = order[k];
    call.kernel[k] = kernels[i];
    call.weight[k] = kept.parameter(weights[i]);
    if (i < biases.size() && biases[i].numel() != 0) {
      call.bias[k] = kept.parameter(biases[i]);
      call.bias_step = biases[i].dim() == 2 ? int(biases[i].size(1)) : 0;
    }
    if (pass != Pass::kSpread || k == 0) call.x[k] = kept.template image<T>(from[pass == Pass::kSpread ? 0 : i]);
    if (pass != Pass::kSummed || k == 0) call.y[k] = room_of<T>(to[pass == Pass::kSummed ? 0 : i]);
  }
  if (scale) call.scale = kept.parameter(*scale);
  call.turned = turned;
  const int pixels = pass == Pass::kSpread ? kSpreadPixels : pass == Pass::kSummed ? kSummedPixels : kEachPixels;
  const int64_t branches = pass == Pass::kEach ? int64_t(weights.size()) : 1;
  call.tiling = tiling_of(from[0], pixels, kept.aligned, branches, 64, pass == Pass::kSummed && sizeof(T) == 4 ? 2 : 4);
  const Tiling& t = call.tiling;
  int taps = 0;
  for (int kernel : kernels) taps = pass == Pass::kEach ? std::max(taps, kernel * kernel) : taps + kernel * kernel;
  const int rows = pass == Pass::kSummed ? kBranches : 1;
  const int row = pass == Pass::kSpread ? row_elements<kSpreadPixels, kReach>(t.parts)
                                        : row_elements<kSummedPixels, kReach>(t.parts);
  const int in_ring = pass == Pass::kSpread ? kRowsOfStep<kSpreadPixels> * kStepsOfRing<kSpreadPixels>
                                            : kRowsOfStep<kSummedPixels> * kStepsOfRing<kSummedPixels>;
  const size_t bytes = sizeof(float) * t.parts * kLanes * taps + sizeof(T) * in_ring * rows * row;
  const dim3 grid = grid_of(from[0].size(0) * t.tiles_of_image(), branches);
  switch (pass) {
    case Pass::kSpread: AMINET_LAUNCH(spread<T>, grid, dim3(kThreads), bytes, stream, call); break;
    case Pass::kSummed: AMINET_LAUNCH(summed<T>, grid, dim3(kThreads), bytes, stream, call); break;
    case Pass::kEach: AMINET_LAUNCH(each<T>, grid, dim3(kThreads), bytes, stream, call); break;
  }
}
static_assert(kSummedPixels == kEachPixels);

using Gradients = std::tuple<std::vector<Tensor>, std::vector<Tensor>, std::vector<Tensor>, Tensor>;

// dW, db and dscale.
template <typename T>
void parameter_gradients(const std::vector<Tensor>& dy, const std::vector<Tensor>& x,
                         const std::vector<Tensor>& weights, const std::optional<Tensor>& scale, bool need_weights,
                         bool need_scale, Gradients& gradients, cudaStream_t stream) {
  Kept kept(x[0]);
  SumsCall<T> call = {};
  FoldCall fold = {};
  const bool shared = x.size() != weights.size();
  const auto kernels = kernels_of(weights), order = order_of(kernels, shared);
  auto& [dx, dweights, dbiases, dscale] = gradients;
  for (size_t k = 0; k < order.size(); ++k) {
    const size_t i = order[k];
    fold.kernel[k] = call.kernel[k] = kernels[i];
    fold.row[k] = call.row[k] = call.rows;
    call.rows += kernels[i] * kernels[i] + 1;
    if (!shared || k == 0) call.x[k] = kept.template image<T>(x[shared ? 0 : i]);
    call.dy[k] = kept.template image<T>(dy[i]);
    fold.weight[k] = kept.parameter(weights[i]);
    if (need_weights) fold.dweight[k] = gradient_of(dweights[i]), fold.dbias[k] = gradient_of(dbiases[i]);
  }
  const int64_t images = x[0].size(0), branches = shared ? 1 : int64_t(weights.size());
  call.tiling = tiling_of(x[0], shared ? kSharedSumsPixels : kEachSumsPixels, kept.aligned, branches, 32, 4);
  const Tiling& t = call.tiling;
  const int64_t of_image = int64_t(t.strips) * t.bands;
  const int64_t runs = scale ? images : 1, inner = (scale ? 1 : images) * of_image;
  STD_TORCH_CHECK(images * of_image < (int64_t(1) << 31), "multiscale_dwconv: too many images");
  call.inner = int(inner);
  call.shares = int(std::min(inner, std::max<int64_t>(kBlocks / (runs * t.slices * branches), 1)));
  call.padded = t.slices * t.parts * kLanes;
  const int64_t shares = runs * call.shares;
  const std::vector<int64_t> size = {shares, call.rows, call.padded};
  Tensor partial = torch::stable::new_empty(x[0], size, ScalarType::Float);
  call.partial = room_of<float>(partial);
  const int step = shared ? step_elements<kSharedSumsPixels>(t.parts, kBranches)
                          : step_elements<kEachSumsPixels>(t.parts, 1);
  const int slots = shared ? kStepsOfRing<kSharedSumsPixels> : kStepsOfRing<kEachSumsPixels>;
  const int most = *std::max_element(kernels.begin(), kernels.end());
  const size_t bytes = std::max(sizeof(T) * slots * step, sizeof(float) * kThreads * (most * most + 1));
  const dim3 grid = grid_of(shares * t.slices, branches);
  if (shared)
    AMINET_LAUNCH(sums_of_shared<T>, grid, dim3(kThreads), bytes, stream, call);
  else
    AMINET_LAUNCH(sums_of_each<T>, grid, dim3(kThreads), bytes, stream, call);

  fold.partial = call.partial;
  fold.channels = t.channels, fold.rows = call.rows, fold.padded = call.padded, fold.branches = int(weights.size());
  fold.shares = shares, fold.of_image = call.shares;
  if (scale) fold.scale = kept.parameter(*scale);
  const unsigned columns = unsigned(ceil_div(t.channels, kFoldLanes));
  const dim3 block(kFoldLanes, kFoldRows);
  if (need_weights) AMINET_LAUNCH(fold_parameters<T>, dim3(call.rows, columns), block, 0, stream, fold);
  if (need_scale) {
    fold.dscale = gradient_of(dscale);
    AMINET_LAUNCH(fold_scale<T>, dim3(unsigned(images), columns), block, 0, stream, fold);
  }
}

}  // namespace
}  // namespace aminet::multiscale
