// aminet_fast::skaf_descriptor_fwd, _bwd_input and _bwd_parameters for CPU tensors; the schemas are in
// aminet_fast/ops/skaf_descriptor.py. The forward's convolutions are Winograd's (skaf_winograd.cpp) or torch's own
// (oneDNN's), a few images at a time.
#include "cpu/skaf_descriptor.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "cpu/skaf_forward.h"

namespace aminet {
namespace {

// u is made and pooled for about so many bytes at a time: they stay in cache between the two.
constexpr int64_t kChunkBytes = 4 << 20;
// A tile's rows hold about this many pixels: their windows stay in cache while all channels pass over them.
constexpr int64_t kTilePixels = 2048;
// The sums over all pixels are cut into at most this many, a fixed number so that the threads do not change the result.
constexpr int64_t kMeanChunks = 32;
// A thread is worth waking for this many elements.
constexpr int64_t kGrainElements = 16384;

// elements: of one unit of work, on average; an average may round to none.
int64_t grain(int64_t elements) { return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, elements)); }

Tensor convolution(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  using torch::stable::detail::from;
  const std::vector<int64_t> one = {1, 1}, zero = {0, 0}, padding = {weight.size(2) / 2, weight.size(3) / 2};
  std::array<StableIValue, 9> stack{from(x),   from(weight), from(std::optional<Tensor>(bias)),
                                    from(one), from(padding), from(one),
                                    from(false), from(zero), from(static_cast<int64_t>(1))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::contiguous(torch::stable::detail::to<Tensor>(stack[0]), MemoryFormat::ChannelsLast);
}

SkafShape shape_of(const std::vector<Tensor>& weights, int64_t images, int64_t height, int64_t width) {
  STD_TORCH_CHECK(!weights.empty(), "skaf_descriptor: weights is empty");
  SkafShape shape = {images, weights[0].size(1), height, width, 0, 0};
  for (const Tensor& weight : weights) {
    const int64_t k = weight.size(2);
    STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == shape.inputs && k == weight.size(3) && k % 2 == 1,
                    "skaf_descriptor: each of weights must be [C_k, C, k, k] of odd k");
    shape.total += weight.size(0);
    shape.size = std::max(shape.size, k);
  }
  return shape;
}

void check_saved(const Tensor& dm, const Tensor& argmax) {
  STD_TORCH_CHECK(dm.dim() == 4 && dm.size(1) == 2 && argmax.scalar_type() == ScalarType::Int && argmax.dim() == 3 &&
                      argmax.size(0) == dm.size(0) && argmax.size(1) == dm.size(2) && argmax.size(2) == dm.size(3),
                  "skaf_descriptor: dm must be [N, 2, H, W] and argmax int32 [N, H, W]");
}

Tensor channels_last(const Tensor& t, ScalarType type) {
  return torch::stable::contiguous(torch::stable::to(t, type), MemoryFormat::ChannelsLast);
}

Tensor empty_channels_last(const Tensor& like, const std::vector<int64_t>& size, ScalarType type) {
  return torch::stable::empty(size, type, std::nullopt, like.device(), std::nullopt, MemoryFormat::ChannelsLast);
}

std::tuple<Tensor, Tensor> forward(const Tensor& input, const std::vector<Tensor>& weights,
                                   const std::vector<Tensor>& biases, const std::optional<Tensor>& packed,
                                   const std::string& /* backend: of GPUs */) {
  STD_TORCH_CHECK(input.dim() == 4 && input.numel() > 0, "skaf_descriptor: x must be [N, C, H, W], every size at least 1");
  STD_TORCH_CHECK(biases.size() == weights.size(), "skaf_descriptor: one bias for each of weights");
  SkafPool arguments = {shape_of(weights, input.size(0), input.size(2), input.size(3)), {}, 0, nullptr, nullptr};
  STD_TORCH_CHECK(input.size(1) == arguments.shape.inputs, "skaf_descriptor: x does not fit weights");
  if (uses_winograd(input, weights)) return winograd_forward(input, weights, biases, packed);
  Tensor x = torch::stable::contiguous(input, MemoryFormat::ChannelsLast);
  const SkafShape& shape = arguments.shape;
  const Scalar scalar = scalar_of(x);
  const int64_t pixels = shape.height * shape.width;
  std::vector<Tensor> w, b;
  for (size_t i = 0; i < weights.size(); ++i) {
    w.push_back(channels_last(weights[i], x.scalar_type()));
    b.push_back(torch::stable::to(biases[i], x.scalar_type()));
    arguments.convs.push_back({w[i].size(2), w[i].size(0), nullptr, nullptr, nullptr, nullptr});
  }
  Tensor m = torch::stable::new_empty(x, {shape.images, 2, shape.height, shape.width});
  Tensor argmax = torch::stable::new_empty(x, {shape.images, shape.height, shape.width}, ScalarType::Int);
  arguments.m = m.mutable_data_ptr();
  arguments.argmax = static_cast<int32_t*>(argmax.mutable_data_ptr());
  const SkafKernels& kernels = AMINET_PICK(skaf_descriptor);
  const int64_t chunk =
      std::max<int64_t>(1, kChunkBytes / static_cast<int64_t>(pixels * shape.total * x.element_size()));
  for (int64_t n = 0; n < shape.images; n += chunk) {
    const int64_t images = std::min(chunk, shape.images - n);
    const Tensor part = torch::stable::narrow(x, 0, n, images);
    std::vector<Tensor> u;
    for (size_t i = 0; i < w.size(); ++i) {
      u.push_back(convolution(part, w[i], b[i]));
      arguments.convs[i].u = u[i].const_data_ptr();
    }
    arguments.first_image = n;
    parallel_for(0, images * pixels, grain(shape.total), [&](int64_t first, int64_t last) {
      kernels.pool(scalar, arguments, first, last);
    });
  }
  return {m, argmax};
}

Tensor backward_input(const Tensor& grad, const Tensor& argmax, const std::vector<Tensor>& weights,
                      const std::string&) {
  check_saved(grad, argmax);
  const ScalarType acc = acc_of(grad);
  const Tensor dm = parameter_of(grad, acc), chosen = torch::stable::contiguous(argmax);
  SkafBackwardInput arguments = {shape_of(weights, dm.size(0), dm.size(2), dm.size(3)), {}, dm.const_data_ptr(),
                                 static_cast<const int32_t*>(chosen.const_data_ptr()), nullptr, nullptr};
  const SkafShape& shape = arguments.shape;
  std::vector<Tensor> w;
  for (const Tensor& weight : weights) {
    w.push_back(channels_last(weight, acc));
    arguments.convs.push_back({weight.size(2), weight.size(0), nullptr, w.back().const_data_ptr(), nullptr, nullptr});
  }
  const int64_t sums = shape.size * shape.size * skaf_padded_inputs(shape) + 2 * kSkafPadding;
  Tensor sum = torch::stable::new_empty(dm, {sums});
  Tensor dx = empty_channels_last(dm, {shape.images, shape.inputs, shape.height, shape.width}, grad.scalar_type());
  arguments.sum = sum.mutable_data_ptr();
  arguments.dx = dx.mutable_data_ptr();

  const Scalar scalar = scalar_of(grad);
  const SkafKernels& kernels = AMINET_PICK(skaf_descriptor);
  parallel_for(
      0, shape.size, grain(shape.total * shape.size * shape.inputs),
      [&](int64_t first, int64_t last) { kernels.sum_kernels(scalar, arguments, first, last); });
  parallel_for(0, shape.images * shape.height, grain(shape.width * shape.inputs * shape.size),
                              [&](int64_t first, int64_t last) { kernels.dx(scalar, arguments, first, last); });
  return dx;
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> backward_parameters(const Tensor& grad, const Tensor& input,
                                                                         const Tensor& argmax,
                                                                         const std::vector<Tensor>& weights,
                                                                         const std::string&) {
  check_saved(grad, argmax);
  const ScalarType acc = acc_of(input);
  const Tensor x = torch::stable::contiguous(input, MemoryFormat::ChannelsLast);
  const Tensor dm = parameter_of(grad, acc), chosen = torch::stable::contiguous(argmax);
  SkafBackwardParameters arguments = {};
  arguments.shape = shape_of(weights, x.size(0), x.size(2), x.size(3));
  const SkafShape& shape = arguments.shape;
  STD_TORCH_CHECK(x.size(1) == shape.inputs && dm.size(0) == shape.images && dm.size(2) == shape.height &&
                      dm.size(3) == shape.width, "skaf_descriptor: x does not fit weights and dm");
  const int64_t rows = shape.images * shape.height, border = shape.size - 1;
  const int64_t padded_rows = shape.images * (shape.height + border), row = (shape.width + border) * shape.inputs;
  std::vector<Tensor> dweights, dbiases;
  for (const Tensor& weight : weights) {
    const int64_t k = weight.size(2);
    dweights.push_back(empty_channels_last(x, {weight.size(0), shape.inputs, k, k}, acc));
    dbiases.push_back(torch::stable::new_empty(x, {weight.size(0)}, acc));
    arguments.convs.push_back({k, weight.size(0), nullptr, nullptr, dweights.back().mutable_data_ptr(),
                               dbiases.back().mutable_data_ptr()});
  }
  const int64_t tile_rows = std::max<int64_t>(1, kTilePixels / shape.width);
  for (int64_t first = 0; first < rows; first += tile_rows)
    arguments.tiles.push_back({first, std::min(rows, first + tile_rows), {}, {}});
  arguments.mean_chunks = std::min(kMeanChunks, rows);
  Tensor padded = torch::stable::new_empty(x, {padded_rows * row + kSkafPadding}, acc);
  Tensor gain = torch::stable::new_empty(x, {rows * shape.width}, acc);
  Tensor mean = torch::stable::new_empty(
      x, {arguments.mean_chunks, shape.size * shape.size * shape.inputs + 1}, acc);
  arguments.x = x.const_data_ptr();
  arguments.dm = dm.const_data_ptr();
  arguments.argmax = static_cast<const int32_t*>(chosen.const_data_ptr());
  arguments.padded = padded.mutable_data_ptr();
  arguments.gain = gain.mutable_data_ptr();
  arguments.mean = mean.mutable_data_ptr();

  const Scalar scalar = scalar_of(x);
  const SkafKernels& kernels = AMINET_PICK(skaf_descriptor);
  parallel_for(0, padded_rows, grain(row), [&](int64_t first, int64_t last) {
    kernels.pad(scalar, arguments, first, last);
  });
  parallel_for(0, arguments.tiles.size(), grain(kTilePixels), [&](int64_t first, int64_t last) {
    kernels.sort(scalar, arguments, first, last);
  });
  parallel_for(0, arguments.mean_chunks, grain(rows / arguments.mean_chunks * row),
                              [&](int64_t first, int64_t last) { kernels.mean(scalar, arguments, first, last); });
  kernels.add_means(scalar, arguments);
  parallel_for(0, shape.size * shape.total, grain(rows * row / shape.total),
                              [&](int64_t first, int64_t last) { kernels.weights(scalar, arguments, first, last); });
  for (size_t i = 0; i < weights.size(); ++i) {
    const ScalarType type = weights[i].scalar_type();
    dweights[i] = torch::stable::contiguous(torch::stable::to(dweights[i], type), format_of(weights[i]));
    dbiases[i] = torch::stable::to(dbiases[i], type);
  }
  return {dweights, dbiases};
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("skaf_descriptor_fwd", TORCH_BOX(&aminet::forward));
  m.impl("skaf_descriptor_bwd_input", TORCH_BOX(&aminet::backward_input));
  m.impl("skaf_descriptor_bwd_parameters", TORCH_BOX(&aminet::backward_parameters));
}
