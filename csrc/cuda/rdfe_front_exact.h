// The launches of the float32 backward's depthwise passes, whose multiply-adds are exact. Include it after tensors.h.
//
// A thread walks down one channel of 2 or 4 columns with the channel's 83 weights (or sums) in registers: then a value
// from shared memory serves up to 83 multiply-adds and nothing but it is loaded.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "cuda/rdfe_front_call.h"
#include "cuda/rdfe_front_exact_filter.cuh"
#include "cuda/rdfe_front_exact_sums.cuh"
#include "cuda/rdfe_front_fold.cuh"

namespace aminet::rdfe {
namespace {

// dW, db and dscale of the call's sums; each where it is wanted.
template <typename T>
void fold_sums(FoldCall fold, bool parameters, Tensor* dscale, int images, cudaStream_t stream) {
  const unsigned columns = unsigned(ceil_div(fold.channels, FOLD_LANES));
  const dim3 block(FOLD_LANES, FOLD_ROWS);
  if (parameters) AMINET_LAUNCH(fold_parameters<T>, dim3(PARTIAL_ROWS, columns), block, 0, stream, fold);
  if (dscale == nullptr) return;
  fold.dscale = gradient_of(*dscale);
  AMINET_LAUNCH(fold_scale<T>, dim3(unsigned(images), columns), block, 0, stream, fold);
}

}  // namespace

namespace exact {
namespace {

constexpr int kBlocks = 264;   // that are wanted: two on each of 132 multiprocessors
constexpr int kLeastRows = 8;  // of a band, which loads six more, unless the image has fewer

// most_rows: of a band; most_parts: of a tile, whose shared memory they widen.
Tiling tiling_of(const Sizes& s, int pixels, int64_t branches, int most_rows, int most_parts) {
  Tiling t = {};
  t.channels = s.channels, t.height = s.height, t.width = s.width;
  const int slices = ceil_div(t.channels, kLanes), all = kGroups * pixels;
  t.parts = 1;
  const auto widens = [&] { return t.width <= all / t.parts / 2 || (t.parts == 1 && slices % 2 == 0); };
  while (t.parts < most_parts && t.parts < slices && widens()) t.parts *= 2;
  t.margined = (all + 2 * kReach * t.parts) * kLanes;
  t.slices = ceil_div(slices, t.parts);
  t.strips = ceil_div(t.width, all / t.parts);
  const int64_t tiles = int64_t(s.images) * t.slices * t.strips * branches;
  const int64_t wanted = std::max<int64_t>(ceil_div<int64_t>(kBlocks, tiles), ceil_div(t.height, most_rows));
  t.band = ceil_div(t.height, int(std::min<int64_t>(wanted, ceil_div(t.height, kLeastRows))));
  t.bands = ceil_div(t.height, t.band);
  t.vectors = t.channels * sizeof(float) % 16 == 0;
  return t;
}

// Blocks of a launch, x and y; there are never 2**31.
dim3 grid_of(int64_t blocks, int64_t branches) {
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "rdfe_front: too many images");
  return dim3(unsigned(blocks), unsigned(branches), 1);
}

enum class Pass { kSpread, kEach, kSummed };

// y, or with taps turned dx. from, to: one image, or one for each branch, as the pass has it; biases: none, or [C] or
// [N, C] for each branch.
void filter(Pass pass, const List& from, const List& weights, const List& biases, const Tensor* scale, bool turned,
            List& to, const Sizes& s, cudaStream_t stream) {
  FilterCall call = {};
  for (int k = 0; k < BRANCHES; ++k) {
    call.weight[k] = data_of<float>(weights[k]);
    if (!biases.empty()) call.bias[k] = data_of<float>(biases[k]);
    if (pass != Pass::kSpread || k == 0) call.x[k] = data_of<float>(from[k]);
    if (pass != Pass::kSummed || k == 0) call.y[k] = room_of<float>(to[k]);
  }
  call.bias_step = !biases.empty() && biases[0].dim() == 2 ? s.channels : 0;
  call.scale = scale == nullptr ? nullptr : data_of<float>(*scale);
  call.turned = turned;
  const int pixels = pass == Pass::kSpread ? kSpreadPixels : pass == Pass::kSummed ? kSummedPixels : kEachPixels;
  const int64_t branches = pass == Pass::kEach ? BRANCHES : 1;
  call.tiling = tiling_of(s, pixels, branches, 64, pass == Pass::kSummed ? 2 : 4);
  const Tiling& t = call.tiling;
  const int taps = pass == Pass::kEach ? LARGEST * LARGEST : TAPS, rows = pass == Pass::kSummed ? BRANCHES : 1;
  const int row = pass == Pass::kSpread ? row_elements<kSpreadPixels, kReach>(t.parts)
                                        : row_elements<kSummedPixels, kReach>(t.parts);
  const int in_ring = pass == Pass::kSpread ? kRowsOfStep<kSpreadPixels> * kStepsOfRing<kSpreadPixels>
                                            : kRowsOfStep<kSummedPixels> * kStepsOfRing<kSummedPixels>;
  const size_t bytes = sizeof(float) * (t.parts * kLanes * taps + in_ring * rows * row);
  const dim3 grid = grid_of(s.images * t.tiles_of_image(), branches);
  switch (pass) {
    case Pass::kSpread: AMINET_LAUNCH(spread, grid, dim3(kThreads), bytes, stream, call); break;
    case Pass::kSummed: AMINET_LAUNCH(summed, grid, dim3(kThreads), bytes, stream, call); break;
    case Pass::kEach: AMINET_LAUNCH(each, grid, dim3(kThreads), bytes, stream, call); break;
  }
}
static_assert(kSummedPixels == kEachPixels);

// dW and db, if they are not empty, and dscale, if it is there. x: one image, or one for each branch.
void parameter_gradients(const List& dy, const List& x, const List& weights, const Tensor* scale, List dweights,
                         List dbiases, Tensor* dscale, const Sizes& s, cudaStream_t stream) {
  SumsCall call = {};
  FoldCall fold = {};
  const bool shared = x.size() == 1;
  for (int k = 0; k < BRANCHES; ++k) {
    if (!shared || k == 0) call.x[k] = data_of<float>(x[k]);
    call.dy[k] = data_of<float>(dy[k]);
    call.kernel[k] = kernel_of(k), call.row[k] = first_partial(k);
    fold.weight[k] = {weights[k].const_data_ptr(), true};
    if (!dweights.empty()) fold.dweight[k] = gradient_of(dweights[k]), fold.dbias[k] = gradient_of(dbiases[k]);
  }
  const int64_t branches = shared ? 1 : BRANCHES;
  call.tiling = tiling_of(s, shared ? kSharedSumsPixels : kEachSumsPixels, branches, 32, 4);
  const Tiling& t = call.tiling;
  const int64_t of_image = int64_t(t.strips) * t.bands;
  const int64_t runs = scale != nullptr ? s.images : 1, inner = (scale != nullptr ? 1 : s.images) * of_image;
  STD_TORCH_CHECK(s.images * of_image < (int64_t(1) << 31), "rdfe_front: too many images");
  call.rows = PARTIAL_ROWS;
  call.inner = int(inner);
  call.shares = int(std::min(inner, std::max<int64_t>(kBlocks / (runs * t.slices * branches), 1)));
  call.padded = t.slices * t.parts * kLanes;
  const int64_t shares = runs * call.shares;
  Tensor partial = floats(x[0], {shares, PARTIAL_ROWS, call.padded});
  call.partial = room_of<float>(partial);
  const int step = shared ? step_elements<kSharedSumsPixels>(t.parts, BRANCHES)
                          : step_elements<kEachSumsPixels>(t.parts, 1);
  const int slots = shared ? kStepsOfRing<kSharedSumsPixels> : kStepsOfRing<kEachSumsPixels>;
  const size_t bytes = sizeof(float) * std::max(slots * step, kThreads * (LARGEST * LARGEST + 1));
  const dim3 grid = grid_of(shares * t.slices, branches);
  if (shared)
    AMINET_LAUNCH(sums_of_shared, grid, dim3(kThreads), bytes, stream, call);
  else
    AMINET_LAUNCH(sums_of_each, grid, dim3(kThreads), bytes, stream, call);

  fold.partial = call.partial;
  fold.channels = t.channels, fold.padded = call.padded, fold.shares = shares, fold.of_image = call.shares;
  if (scale != nullptr) fold.scale = {scale->const_data_ptr(), true};
  fold_sums<float>(fold, !dweights.empty(), dscale, s.images, stream);
}

}  // namespace
}  // namespace exact
}  // namespace aminet::rdfe
