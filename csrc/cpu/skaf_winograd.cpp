// aminet_fast::skaf_descriptor_prepack, and the forward of skaf_descriptor where Winograd's convolutions are faster.
#include "cpu/skaf_winograd.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "cpu/skaf_forward.h"

namespace aminet {
namespace {

// With so few pixels transforming the weights costs more than it saves, unless there are few of these too; measured at
// 8 to 192 channels.
constexpr int64_t kLeastPixels = 160, kFewInputs = 48;
// Groups of tiles in a block: so few that V and M stay in the second-level cache, and more where U does not.
constexpr int64_t kGroups = 8, kManyGroups = 16, kManyInputs = 128;
// Small images are cut finer, for the sake of several threads.
constexpr int64_t kLeastBlocks = 4;

bool has_winograd(const std::vector<Tensor>& weights) {
  return weights.size() == 2 && weights[0].size(2) == 5 && weights[1].size(2) == 7 &&
         weights[0].size(1) >= kWinogradLeastInputs;
}

int64_t weight_size(const Tensor& weight) {
  return winograd_weight_size(weight.size(0), weight.size(1), kSkafWinogradPoints);
}

Tensor prepack(const std::vector<Tensor>& weights) {
  STD_TORCH_CHECK(has_winograd(weights) && weights[1].size(1) == weights[0].size(1),
                  "skaf_descriptor_prepack: weights must be [C_1, C, 5, 5] and [C_2, C, 7, 7] of C >= 8");
  const SkafWinogradKernels& kernels = AMINET_PICK(skaf_winograd);
  Tensor packed = torch::stable::new_empty(weights[0], {weight_size(weights[0]) + weight_size(weights[1])},
                                           ScalarType::Float);
  float* u = static_cast<float*>(packed.mutable_data_ptr());
  for (const Tensor& weight : weights) {
    const Tensor w = laid_out(converted(weight, ScalarType::Float), MemoryFormat::ChannelsLast);
    const int64_t outputs = w.size(0), inputs = w.size(1);
    parallel_for(
        0, (outputs + kWinogradOutputs - 1) / kWinogradOutputs, 1, [&](int64_t first, int64_t last) {
          kernels.weights(static_cast<const float*>(w.const_data_ptr()), w.size(2), outputs, inputs, first, last, u);
        });
    u += weight_size(weight);
  }
  return packed;
}

}  // namespace

bool uses_winograd(const Tensor& x, const std::vector<Tensor>& weights) {
  return x.scalar_type() == ScalarType::Float && has_winograd(weights) &&
         (x.size(1) <= kFewInputs || x.size(0) * x.size(2) * x.size(3) >= kLeastPixels);
}

std::tuple<Tensor, Tensor> winograd_forward(const Tensor& input, const std::vector<Tensor>& weights,
                                            const std::vector<Tensor>& biases, const std::optional<Tensor>& given) {
  const Tensor x = laid_out(input, MemoryFormat::ChannelsLast);
  const Tensor packed = given ? *given : prepack(weights);
  const int64_t size = weight_size(weights[0]) + weight_size(weights[1]);
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Float && packed.is_contiguous() && packed.numel() == size,
                  "skaf_descriptor: packed must be what skaf_descriptor_prepack makes of weights");
  const Tensor b5 = parameter_of(biases[0], ScalarType::Float), b7 = parameter_of(biases[1], ScalarType::Float);
  const int64_t images = x.size(0), height = x.size(2), width = x.size(3), pixels = images * height * width;
  Tensor m = torch::stable::new_empty(x, {images, 2, height, width});
  Tensor argmax = torch::stable::new_empty(x, {images, height, width}, ScalarType::Int);
  Tensor maps = torch::stable::new_empty(x, {4, pixels});
  Tensor found = torch::stable::new_empty(x, {2, pixels}, ScalarType::Int);

  SkafWinograd a = {};
  a.images = images, a.inputs = x.size(1), a.height = height, a.width = width;
  const float* u = static_cast<const float*>(packed.const_data_ptr());
  float* map = static_cast<float*>(maps.mutable_data_ptr());
  int32_t* index = static_cast<int32_t*>(found.mutable_data_ptr());
  a.five = {weights[0].size(0), static_cast<const float*>(b5.const_data_ptr()), u, map, map + pixels, index};
  a.seven = {weights[1].size(0), static_cast<const float*>(b7.const_data_ptr()), u + weight_size(weights[0]),
             map + 2 * pixels, map + 3 * pixels, index + pixels};
  a.x = static_cast<const float*>(x.const_data_ptr());
  a.m = static_cast<float*>(m.mutable_data_ptr());
  a.argmax = static_cast<int32_t*>(argmax.mutable_data_ptr());
  const int64_t groups = images * a.group_rows() * a.group_columns();
  a.groups = std::min(a.inputs < kManyInputs ? kGroups : kManyGroups, (groups + kLeastBlocks - 1) / kLeastBlocks);

  const SkafWinogradKernels& kernels = AMINET_PICK(skaf_winograd);
  parallel_for(0, a.blocks(), 1, [&](int64_t first, int64_t last) { kernels.blocks(a, first, last); });
  parallel_for(0, pixels, 16384, [&](int64_t first, int64_t last) { kernels.combine(a, first, last); });
  return {m, argmax};
}

}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("skaf_descriptor_prepack", TORCH_BOX(&aminet::prepack));
}
