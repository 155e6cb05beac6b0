// aminet_fast::channel_moments_fwd and _bwd for CPU tensors; the schemas are in aminet_fast/ops/channel_moments.py.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/moments.h"

namespace aminet {
namespace {

void check_image(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.numel() > 0, "channel_moments: x must be [N, C, H, W] with every size at least 1");
}

std::tuple<Tensor, Tensor> forward(const Tensor& input) {
  check_image(input);
  const Tensor x = laid_out(input, MemoryFormat::ChannelsLast);
  const int64_t images = x.size(0), C = x.size(1), height = x.size(2), width = x.size(3);
  const RowUnits units = row_units(height, width);
  Tensor partial = torch::stable::new_empty(x, {images * units.per_image, 3, C}, acc_of(x));
  const MomentPass arguments = {images, C, height, width, units, x.const_data_ptr(), nullptr,
                                partial.mutable_data_ptr()};
  const Scalar scalar = scalar_of(x);
  const NormActConvKernels& kernels = AMINET_PICK(norm_act_conv);
  parallel_for(
      0, partial.size(0), moment_grain(units.rows * width * C),
      [&](int64_t first, int64_t last) { kernels.moments(scalar, arguments, first, last); });
  return moments_of(partial, images, height, width, units);
}

Tensor backward(const Tensor& dmean, const Tensor& dvar, const Tensor& input, const Tensor& mean) {
  check_image(input);
  const Tensor x = laid_out(input, MemoryFormat::ChannelsLast);
  STD_TORCH_CHECK(mean.numel() == x.size(1) && dmean.numel() == x.size(1) && dvar.numel() == x.size(1),
                  "channel_moments: mean and the gradients must be [C]");
  Tensor dx = torch::stable::empty_like(x);
  const MomentGradients through(x, mean, dmean, dvar, acc_of(x));
  const GradientPass arguments = {through.of(nullptr, x.const_data_ptr()), x.size(1), dx.mutable_data_ptr()};
  const Scalar scalar = scalar_of(x);
  const NormActConvKernels& kernels = AMINET_PICK(norm_act_conv);
  parallel_for(
      0, x.size(0) * x.size(2) * x.size(3), moment_grain(x.size(1)),
      [&](int64_t first, int64_t last) { kernels.gradient(scalar, arguments, first, last); });
  return laid_out(dx, format_of(input));
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("channel_moments_fwd", TORCH_BOX(&aminet::forward));
  m.impl("channel_moments_bwd", TORCH_BOX(&aminet::backward));
}
