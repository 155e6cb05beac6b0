// multiscale_dwconv on CUDA devices: y_k = a * DW_k(x_k) + b_k for k of 3, 5, 7, of one x or one each, and its
// gradients.
//
// Forward reads x (or each x_k) and writes the y_k; backward is the same walk with turned taps from the dy_k to dx, and
// a walk that reads x and the dy_k for dW, db and da, with 86 x C floats a block written and read between its two
// stages. A thread walks down one channel of 2 or 4 columns with the channel's 83 weights (or sums) in registers: then
// a value from shared memory serves up to 83 multiply-adds and nothing but it is loaded (multiscale_dwconv_tile.cuh,
// docs/kernels/multiscale_dwconv.md). Floors at batch 32, bf16, 3.0 TB/s and 67 TFLOP/s, which the Triton twin counts
// alike (kernels/multiscale_dwconv.py): 24@128 100.7 MB 33.6 us and 2.09 GFLOP 31.2 us for each of the three passes
// with one x, half of that at 48@64, a quarter at 96@32, an eighth at 192@16; the sums' partial results are 2 MB beside
// Triton's 17. Instructions beside the 83 multiply-adds of an output, sm_90: about 41 in spread, 28 in summed, 64 in
// sums_of_shared.
#include "cuda/tensors.h"

#include "cuda/multiscale_dwconv_launch.h"

namespace aminet {
namespace {

using namespace multiscale;

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
