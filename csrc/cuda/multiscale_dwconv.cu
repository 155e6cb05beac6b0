// multiscale_dwconv: y_k = a * DW_k(x_k) + b_k for k of 3, 5, 7, of one x or one each, and its gradients, on CUDA devices.
#include "cuda/tensors.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "cuda/multiscale_dwconv_filter.cuh"
#include "cuda/multiscale_dwconv_fold.cuh"
#include "cuda/multiscale_dwconv_sums.cuh"

namespace aminet {
namespace {

using namespace multiscale;

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
  while (t.parts < most_parts && t.parts < slices && (t.width <= all / t.parts / 2 || (t.parts == 1 && slices % 2 == 0)))
    t.parts *= 2;
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

// Blocks of a launch, x and y; there are never 2**31.
dim3 grid_of(int64_t blocks, int64_t branches) {
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "multiscale_dwconv: too many images");
  return dim3(unsigned(blocks), unsigned(branches), 1);
}

enum class Pass { kSpread, kEach, kSummed };

// y, or with taps turned dx, of images that `from` has: in the order of the weights.
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
    if (i < biases.size() && biases[i].numel() != 0) call.bias[k] = kept.parameter(biases[i]);
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

std::vector<Tensor> forward(const std::vector<Tensor>& x, const std::vector<Tensor>& weights,
                            const std::vector<Tensor>& biases, const std::optional<Tensor>& scale) {
  check(x.at(0), x, weights);
  STD_TORCH_CHECK(biases.size() == weights.size(), "multiscale_dwconv: one bias, maybe empty, for each of weights");
  const OnDeviceOf device(x[0]);
  std::vector<Tensor> y;
  for (size_t k = 0; k < weights.size(); ++k)
    y.push_back(empty_image(x[0], x[0].size(0), x[0].size(1), x[0].size(2), x[0].size(3)));
  by_dtype(x[0], [&](auto type) {
    using T = typename decltype(type)::type;
    const Pass pass = x.size() == weights.size() ? Pass::kEach : Pass::kSpread;
    filter<T>(pass, x, weights, biases, scale, false, y, device.stream);
  });
  return y;
}

using Gradients = std::tuple<std::vector<Tensor>, std::vector<Tensor>, std::vector<Tensor>, Tensor>;

// dW, db and dscale.
template <typename T>
void parameter_gradients(const std::vector<Tensor>& dy, const std::vector<Tensor>& x, const std::vector<Tensor>& weights,
                         const std::optional<Tensor>& scale, bool need_weights, bool need_scale, Gradients& gradients,
                         cudaStream_t stream) {
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
  const int step = shared ? step_elements<kSharedSumsPixels>(t.parts, kBranches) : step_elements<kEachSumsPixels>(t.parts, 1);
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

// Gradients that are not needed come back as empty lists, dscale as a tensor with no elements.
Gradients backward(const std::vector<Tensor>& dy, const std::vector<Tensor>& x, const std::vector<Tensor>& weights,
                   const std::optional<Tensor>& scale, bool need_x, bool need_weights, bool need_scale) {
  check(x.at(0), x, weights);
  STD_TORCH_CHECK(dy.size() == weights.size(), "multiscale_dwconv: one dy for each of weights");
  const OnDeviceOf device(x[0]);
  Gradients gradients = {{}, {}, {}, torch::stable::new_empty(x[0], {0})};
  auto& [dx, dweights, dbiases, dscale] = gradients;
  need_scale = need_scale && scale.has_value();
  for (size_t k = 0; need_x && k < x.size(); ++k)
    dx.push_back(empty_image(x[0], x[0].size(0), x[0].size(1), x[0].size(2), x[0].size(3)));
  for (size_t k = 0; need_weights && k < weights.size(); ++k) {
    dweights.push_back(torch::stable::new_empty(weights[k], weights[k].sizes()));
    dbiases.push_back(torch::stable::new_empty(weights[k], {weights[k].size(0)}));
  }
  if (need_scale) dscale = torch::stable::new_empty(*scale, scale->sizes());
  by_dtype(x[0], [&](auto type) {
    using T = typename decltype(type)::type;
    const Pass pass = x.size() == weights.size() ? Pass::kEach : Pass::kSummed;
    if (need_x) {
      std::vector<Tensor> images;
      for (const Tensor& gradient : dy) images.push_back(converted(gradient, x[0].scalar_type()));
      filter<T>(pass, images, weights, {}, scale, true, dx, device.stream);
    }
    if (need_weights || need_scale)
      parameter_gradients<T>(dy, x, weights, scale, need_weights, need_scale, gradients, device.stream);
  });
  return gradients;
}

}  // namespace
}  // namespace aminet

AMINET_CUDA_LIBRARY(m) {
  m.impl("multiscale_dwconv_fwd", TORCH_BOX(&aminet::forward));
  m.impl("multiscale_dwconv_bwd", TORCH_BOX(&aminet::backward));
}
