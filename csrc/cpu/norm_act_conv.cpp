// aminet_fast::norm_act_conv_fwd and _prepack for CPU tensors; the schemas are in aminet_fast/ops/norm_act_conv.py.
#include "cpu/norm_act_conv.h"

#include <array>
#include <string>
#include <tuple>

#include "cpu/norm_act_conv_plan.h"

namespace aminet {
namespace {

// A unit's tiles and their products together are about so many bytes, for the second-level cache.
constexpr int64_t kUnitBytes = 768 << 10;

Tensor convolution(const Tensor& padded, const Tensor& weight, int64_t stride) {
  using torch::stable::detail::from;
  const std::vector<int64_t> one = {1, 1}, zero = {0, 0}, strides = {stride, stride};
  std::array<StableIValue, 9> stack{from(padded), from(weight), from(std::optional<Tensor>()),
                                    from(strides), from(zero), from(one),
                                    from(false), from(zero), from(static_cast<int64_t>(1))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return laid_out(torch::stable::detail::to<Tensor>(stack[0]), MemoryFormat::ChannelsLast);
}

RowUnits tile_units(const ConvPlan& plan) {
  const NormActConvShape& s = plan.shape;
  const int64_t bytes = s.parts() * s.parts() * (tile_padded(s.channels) + tile_padded(s.outputs)) *
                        static_cast<int64_t>(plan.x.element_size());
  const int64_t tiles = std::clamp<int64_t>(kUnitBytes / bytes, 32, 256);
  const int64_t rows = s.tile_size() * std::clamp<int64_t>(tiles / s.tile_columns(), 1, s.tile_rows());
  return {rows, (s.out_height + rows - 1) / rows};
}

int64_t packed_size(const NormActConvShape& s) { return s.parts() * s.parts() * s.channels * tile_padded(s.outputs); }

// The weight [K, C, 3, 3] part by part, in the type of the sums.
Tensor packed_weight(const NormActConvShape& s, const Tensor& weight, ScalarType acc) {
  const Tensor w = weight_of(weight, acc);
  const Scalar scalar = scalar_of(w);
  const NormActTileKernels& kernels = AMINET_PICK(norm_act_conv_tiles);
  Tensor parts = torch::stable::new_empty(w, {packed_size(s)});
  const TileWeights weights = {s, w.const_data_ptr(), nullptr, parts.mutable_data_ptr()};
  parallel_for(
      0, (s.channels + 15) / 16, moment_grain(16 * 16 * s.outputs),
      [&](int64_t a, int64_t b) {
        kernels.forward_weights(scalar, weights, 16 * a, std::min(16 * b, s.channels));
      });
  return parts;
}

Tensor in_tiles(const ConvPlan& plan, const Tensor& weight, const std::optional<Tensor>& packed, RowUnits units,
                void* partial) {
  const NormActConvShape& s = plan.shape;
  const NormActTileKernels& kernels = AMINET_PICK(norm_act_conv_tiles);
  const bool usable = packed && packed->scalar_type() == plan.acc && packed->numel() == packed_size(s);
  const Tensor parts = usable ? *packed : packed_weight(s, weight, plan.acc);
  Tensor y = empty_image(plan.x, s.images, s.outputs, s.out_height, s.out_width);
  const TileForward arguments = {plan.from_image(0), parts.const_data_ptr(), units, y.mutable_data_ptr(), partial};
  parallel_for(
      0, s.images * units.per_image, 1,
      [&](int64_t a, int64_t b) { kernels.forward(plan.scalar, arguments, a, b); });
  return y;
}

void sum_or_copy(const ConvPlan& plan, RowUnits units, int64_t images, const void* from, void* to, void* partial) {
  const NormActConvShape& s = plan.shape;
  const MomentPass arguments = {images, s.outputs, s.out_height, s.out_width, units, from, to, partial};
  const NormActConvKernels& kernels = AMINET_PICK(norm_act_conv);
  parallel_for(
      0, images * units.per_image, moment_grain(units.rows * s.out_width * s.outputs),
      [&](int64_t a, int64_t b) { kernels.moments(plan.scalar, arguments, a, b); });
}

// A few images at a time, by torch's convolution.
Tensor in_chunks(const ConvPlan& plan, const Tensor& weight, RowUnits units, char* partial) {
  const NormActConvShape& s = plan.shape;
  const Tensor w = weight_of(weight, plan.x.scalar_type());
  const int64_t size = plan.rows.size() * plan.columns.size() * s.channels;
  const int64_t chunk = plan.images_at_once(size * static_cast<int64_t>(plan.x.element_size()));
  const int64_t partial_size = units.per_image * 3 * s.outputs * (plan.acc == ScalarType::Double ? 8 : 4);
  Tensor padded = empty_image(plan.x, chunk, s.channels, plan.rows.size(), plan.columns.size());
  std::optional<Tensor> y;
  for (int64_t n = 0; n < s.images; n += chunk) {
    const int64_t images = std::min(chunk, s.images - n);
    pad_images(plan, n, images, padded);
    const Tensor part = convolution(torch::stable::narrow(padded, 0, 0, images), w, plan.options.stride);
    if (chunk >= s.images) y = part;
    if (!y) y = empty_image(plan.x, s.images, s.outputs, s.out_height, s.out_width);
    void* to = chunk >= s.images ? nullptr : at_image(*y, n);
    void* sums = partial == nullptr ? nullptr : partial + n * partial_size;
    if (to != nullptr || sums != nullptr) sum_or_copy(plan, units, images, part.const_data_ptr(), to, sums);
  }
  return *y;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& input, const Tensor& scale, const Tensor& shift,
                                           const Tensor& weight, double slope, int64_t stride, bool reflect,
                                           bool upsample, bool moments, const std::optional<Tensor>& packed,
                                           const std::string& /* backend: of GPUs */) {
  const ConvPlan plan = plan_of(input, scale, shift, weight, {slope, stride, reflect, upsample});
  const NormActConvShape& s = plan.shape;
  const bool tiled = s.tiling != Tiling::none;
  const RowUnits units = tiled ? tile_units(plan) : row_units(s.out_height, s.out_width);
  Tensor partial =
      torch::stable::new_empty(plan.x, {moments ? s.images * units.per_image : 0, 3, s.outputs}, plan.acc);
  void* sums = moments ? partial.mutable_data_ptr() : nullptr;
  Tensor y = tiled ? in_tiles(plan, weight, packed, units, sums)
                   : in_chunks(plan, weight, units, static_cast<char*>(sums));
  if (!moments)
    return {y, torch::stable::new_empty(plan.scale, {0}), torch::stable::new_empty(plan.scale, {0})};
  const auto [mean, var] = moments_of(partial, s.images, s.out_height, s.out_width, units);
  return {y, mean, var};
}

// What in_tiles takes beside data of that type, for each weight; without elements where that would not be used.
std::vector<Tensor> prepack(const std::vector<Tensor>& weights, const std::vector<int64_t>& strides,
                            const std::vector<int64_t>& upsamples, ScalarType dtype, bool) {
  STD_TORCH_CHECK(strides.size() == weights.size() && upsamples.size() == weights.size(),
                  "norm_act_conv: one stride and one upsample for each weight");
  std::vector<Tensor> found;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor& w = weights[i];
    STD_TORCH_CHECK(w.dim() == 4 && w.numel() > 0 && w.size(2) == 3 && w.size(3) == 3,
                    "norm_act_conv: weight must be [K, C, 3, 3]");
    const Tiling tiling = tiling_of(dtype == acc_of(w) && w.scalar_type() == dtype, strides[i], upsamples[i] != 0);
    const NormActConvShape shape = {1, w.size(1), 1, 1, w.size(0), 1, 1, tiling};
    found.push_back(tiling == Tiling::none ? torch::stable::new_empty(w, {0}, dtype)
                                           : packed_weight(shape, w, dtype));
  }
  return found;
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("norm_act_conv_fwd", TORCH_BOX(&aminet::forward));
  m.impl("norm_act_conv_prepack", TORCH_BOX(&aminet::prepack));
}
