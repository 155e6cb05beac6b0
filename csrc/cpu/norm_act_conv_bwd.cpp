// aminet_fast::norm_act_conv_bwd for CPU tensors; the schemas are in aminet_fast/ops/norm_act_conv.py.
#include <array>
#include <string>
#include <tuple>

#include "cpu/norm_act_conv.h"
#include "cpu/norm_act_conv_plan.h"

namespace aminet {
namespace {

// The tiles of the input and of the gradient that are worked on together, for the last-level cache.
// At least as much as twice the sums for the weight, which each such piece adds to.
constexpr int64_t kTileBytes = 2 << 20;

struct Backward {
  const ConvPlan& plan;
  const Tensor dy;                        // channels_last
  const std::optional<MomentGradients>& through;
  const bool need_input, need_weight;
  const NormActConvShape& s = plan.shape;
  const RowUnits units = row_units(s.height, s.width);  // of the sums for scale and shift
  Tensor dx = torch::stable::new_empty(plan.x, {0});
  Tensor dweight = torch::stable::new_empty(plan.x, {0});                  // channels_last
  Tensor partial = torch::stable::new_empty(plan.x, {0}, plan.acc);  // [units][2][C]

  Backward(const ConvPlan& plan, const Tensor& dy, const std::optional<MomentGradients>& through, bool need_input,
           bool need_weight)
      : plan(plan), dy(dy), through(through), need_input(need_input), need_weight(need_weight) {
    if (!need_input) return;
    dx = torch::stable::empty_like(plan.x);
    partial = torch::stable::new_empty(plan.x, {s.images * units.per_image, 2, s.channels}, plan.acc);
  }

  OutputGradient gradient_from(int64_t image) const {
    if (!through) return {at_image(dy, image), nullptr, nullptr, nullptr, nullptr};
    return through->of(at_image(dy, image), at_image(through->y, image));
  }

  void fold(int64_t first, int64_t images, const Tensor& dpadded) {
    const int64_t skipped = first * units.per_image * 2 * s.channels * (plan.acc == ScalarType::Double ? 8 : 4);
    const FoldPass arguments = {plan.from_image(first), dpadded.const_data_ptr(), units.rows, units.per_image,
                                at_image(dx, first), static_cast<char*>(partial.mutable_data_ptr()) + skipped};
    const NormActConvKernels& kernels = AMINET_PICK(norm_act_conv);
    parallel_for(
        0, images * units.per_image, moment_grain(units.rows * s.width * s.channels),
        [&](int64_t a, int64_t b) { kernels.fold(plan.scalar, arguments, a, b); });
  }

  // By torch's convolution, a few images at a time.
  void in_chunks(const Tensor& weight) {
    const Tensor w = weight_of(weight, plan.x.scalar_type());
    const int64_t size = plan.rows.size() * plan.columns.size() * s.channels;
    const int64_t chunk = plan.images_at_once(size * static_cast<int64_t>(plan.x.element_size()));
    Tensor padded = empty_image(plan.x, chunk, s.channels, plan.rows.size(), plan.columns.size());
    Tensor gradient = through ? empty_image(plan.x, chunk, s.outputs, s.out_height, s.out_width) : dy;
    for (int64_t n = 0; n < s.images; n += chunk) {
      const int64_t images = std::min(chunk, s.images - n);
      if (need_weight) pad_images(plan, n, images, padded);
      if (through) add_moments(n, images, gradient);
      const auto [dpadded, dw] = convolution_backward(torch::stable::narrow(gradient, 0, through ? 0 : n, images),
                                                      torch::stable::narrow(padded, 0, 0, images), w);
      if (need_weight && n == 0) dweight = converted(dw, plan.acc);
      if (need_weight && n > 0) add(dw);
      if (need_input) fold(n, images, dpadded);
    }
  }

  void add_moments(int64_t first, int64_t images, Tensor& gradient) const {
    const GradientPass arguments = {gradient_from(first), s.outputs, gradient.mutable_data_ptr()};
    const NormActConvKernels& kernels = AMINET_PICK(norm_act_conv);
    parallel_for(
        0, images * s.out_height * s.out_width, moment_grain(s.outputs),
        [&](int64_t a, int64_t b) { kernels.gradient(plan.scalar, arguments, a, b); });
  }

  std::pair<Tensor, Tensor> convolution_backward(const Tensor& gradient, const Tensor& padded, const Tensor& w) const {
    using torch::stable::detail::from;
    const std::vector<int64_t> one = {1, 1}, zero = {0, 0}, strides = {plan.options.stride, plan.options.stride};
    const bool mask[] = {need_input, need_weight, false};
    std::array<StableIValue, 11> stack{from(gradient), from(padded), from(w), from(std::nullopt),
                                       from(strides), from(zero), from(one), from(false), from(zero),
                                       from(static_cast<int64_t>(1)),
                                       from(torch::headeronly::HeaderOnlyArrayRef<bool>(mask, 3))};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
    Tensor dpadded = torch::stable::detail::to<Tensor>(stack[0]), dw = torch::stable::detail::to<Tensor>(stack[1]);
    torch::stable::detail::to<Tensor>(stack[2]);  // released
    return {need_input ? laid_out(dpadded, MemoryFormat::ChannelsLast) : dpadded,
            need_weight ? laid_out(dw, MemoryFormat::ChannelsLast) : dw};
  }

  void add(const Tensor& dw) {
    const Tensor more = converted(dw, plan.acc);
    const int64_t count = dweight.numel();
    if (plan.acc == ScalarType::Double) {
      for (int64_t i = 0; i < count; ++i)
        static_cast<double*>(dweight.mutable_data_ptr())[i] += static_cast<const double*>(more.const_data_ptr())[i];
    } else {
      float* to = static_cast<float*>(dweight.mutable_data_ptr());
      const float* from = static_cast<const float*>(more.const_data_ptr());
      for (int64_t i = 0; i < count; ++i) to[i] += from[i];
    }
  }

  void in_tiles(const Tensor& weight);
  void tile_range(const NormActTileKernels& kernels, const TileBackward& a, int64_t images) const;
};

void Backward::tile_range(const NormActTileKernels& kernels, const TileBackward& a, int64_t images) const {
  const int64_t rows = a.last_row - a.first_row, parts = s.parts() * s.parts(), tiles = rows * s.tile_columns();
  const Scalar scalar = plan.scalar;
  parallel_for(a.first_row, a.last_row, 1,
                              [&](int64_t x, int64_t y) { kernels.transform(scalar, a, x, y); });
  if (need_weight)
    parallel_for(0, parts * ((s.outputs + kWeightBlock - 1) / kWeightBlock), 1,
                                [&](int64_t x, int64_t y) { kernels.dweight(scalar, a, x, y); });
  if (!need_input) return;
  parallel_for(0, parts * ((tiles + kTileBlock - 1) / kTileBlock), 1,
                              [&](int64_t x, int64_t y) { kernels.dinputs(scalar, a, x, y); });
  const int64_t overlap = (s.parts() + s.step() - 1) / s.step() - 1;
  const int64_t bands = images > 1 ? images * (s.tile_rows() + overlap) : rows + overlap;
  parallel_for(0, bands, 1, [&](int64_t x, int64_t y) { kernels.dpadded(scalar, a, x, y); });
}

void Backward::in_tiles(const Tensor& weight) {
  const NormActTileKernels& kernels = AMINET_PICK(norm_act_conv_tiles);
  const Tensor w = weight_of(weight, plan.acc);
  const int64_t parts = s.parts() * s.parts(), in_pitch = tile_padded(s.channels), out_pitch = tile_padded(s.outputs);
  Tensor transformed = torch::stable::new_empty(plan.x, {need_input ? parts * s.outputs * in_pitch : 0});
  Tensor sums = torch::stable::new_zeros(plan.x, {need_weight ? parts * s.outputs * in_pitch : 0});
  TileWeights weights = {s, w.const_data_ptr(), need_weight ? sums.const_data_ptr() : nullptr, nullptr};
  weights.to = transformed.mutable_data_ptr();
  if (need_input)
    parallel_for(0, s.outputs, moment_grain(16 * s.channels), [&](int64_t a, int64_t b) {
      kernels.backward_weights(plan.scalar, weights, a, b);
    });
  const int64_t element = plan.x.element_size(), row_size = parts * s.tile_columns() * (in_pitch + out_pitch);
  const int64_t bytes = std::max(kTileBytes, 2 * parts * s.outputs * in_pitch * element);
  const int64_t rows = std::max<int64_t>(1, bytes / (row_size * element));
  const int64_t chunk = std::clamp<int64_t>(rows / s.tile_rows(), 1, s.images);
  const int64_t at_once = std::min(rows, s.tile_rows() * chunk), tiles = at_once * s.tile_columns();
  Tensor inputs = torch::stable::new_empty(plan.x, {parts * tiles * in_pitch});
  Tensor gradients = torch::stable::new_empty(plan.x, {parts * tiles * out_pitch});
  Tensor dpadded = torch::stable::new_empty(
      plan.x, {need_input ? chunk * plan.rows.size() * plan.columns.size() * s.channels : 0});
  for (int64_t n = 0; n < s.images; n += chunk) {
    const int64_t images = std::min(chunk, s.images - n), all = images * s.tile_rows();
    const int64_t step = images > 1 ? all : std::min(at_once, all);
    for (int64_t first = 0; first < all; first += step) {
      const TileBackward arguments = {plan.from_image(n), gradient_from(n), transformed.const_data_ptr(), first,
                                      std::min(all, first + step), inputs.mutable_data_ptr(),
                                      gradients.mutable_data_ptr(),
                                      need_weight ? sums.mutable_data_ptr() : nullptr,
                                      need_input ? dpadded.mutable_data_ptr() : nullptr};
      tile_range(kernels, arguments, images);
    }
    if (need_input) fold(n, images, dpadded);
  }
  if (!need_weight) return;
  dweight = torch::stable::empty_like(w);
  weights.to = dweight.mutable_data_ptr();
  parallel_for(0, s.outputs, moment_grain(16 * s.channels), [&](int64_t a, int64_t b) {
    kernels.weight_gradient(plan.scalar, weights, a, b);
  });
}

// partial [units][2][C], always added in the same order, to dscale and dshift [C].
template <typename Acc>
void add_partials(const Tensor& partial, Tensor& dscale, Tensor& dshift) {
  const int64_t C = partial.size(2);
  std::vector<double> sum(2 * C);
  const Acc* from = static_cast<const Acc*>(partial.const_data_ptr());
  for (int64_t unit = 0; unit < partial.size(0); ++unit, from += 2 * C)
    for (int64_t c = 0; c < 2 * C; ++c) sum[c] += from[c];
  std::copy_n(sum.data(), C, static_cast<Acc*>(dscale.mutable_data_ptr()));
  std::copy_n(sum.data() + C, C, static_cast<Acc*>(dshift.mutable_data_ptr()));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad, const std::optional<Tensor>& dmean,
                                                    const std::optional<Tensor>& dvar, const Tensor& input,
                                                    const Tensor& scale, const Tensor& shift, const Tensor& weight,
                                                    const Tensor& y, const Tensor& mean, double slope, int64_t stride,
                                                    bool reflect, bool upsample, bool need_input, bool need_weight,
                                                    const std::optional<Tensor>&, const std::string&) {
  const ConvPlan plan = plan_of(input, scale, shift, weight, {slope, stride, reflect, upsample});
  const NormActConvShape& s = plan.shape;
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == s.images && grad.size(1) == s.outputs &&
                      grad.size(2) == s.out_height && grad.size(3) == s.out_width,
                  "norm_act_conv: dy must have the sizes of y");
  const Tensor dy = laid_out(converted(grad, plan.x.scalar_type()), MemoryFormat::ChannelsLast);
  std::optional<MomentGradients> through;
  if (dmean && dvar) {
    STD_TORCH_CHECK(y.numel() == grad.numel() && y.scalar_type() == plan.x.scalar_type() && mean.numel() == s.outputs,
                    "norm_act_conv: y and mean must be the forward's");
    through.emplace(laid_out(y, MemoryFormat::ChannelsLast), mean, *dmean, *dvar, plan.acc);
  }
  Backward run(plan, dy, through, need_input, need_weight);
  s.tiling == Tiling::none ? run.in_chunks(weight) : run.in_tiles(weight);
  Tensor dscale = torch::stable::new_empty(plan.scale, {need_input ? s.channels : 0});
  Tensor dshift = torch::stable::new_empty(plan.scale, {need_input ? s.channels : 0});
  if (need_input && plan.acc == ScalarType::Double) add_partials<double>(run.partial, dscale, dshift);
  if (need_input && plan.acc == ScalarType::Float) add_partials<float>(run.partial, dscale, dshift);
  const ScalarType types[] = {scale.scalar_type(), shift.scalar_type(), weight.scalar_type()};
  Tensor dw = converted(run.dweight, types[2]);
  return {need_input ? laid_out(run.dx, format_of(input)) : run.dx, converted(dscale, types[0]),
          converted(dshift, types[1]), need_weight ? laid_out(dw, format_of(weight)) : dw};
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) { m.impl("norm_act_conv_bwd", TORCH_BOX(&aminet::backward)); }
