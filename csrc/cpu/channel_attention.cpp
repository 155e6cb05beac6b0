// aminet_fast::channel_attention_fwd and _bwd for CPU tensors; the schemas are in aminet_fast/ops/channel_attention.py.
#include "cpu/channel_attention.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "cpu/tensors.h"

namespace aminet {
namespace {

// The sums for the convolutions' weights are cut into so many partial ones that they stay below kPartialElements
// together, but into 8 at least: numbers that depend on the shape alone, so that the result does not on the threads.
constexpr int64_t kLeastTasks = 8, kMostTasks = 64, kPartialElements = 1 << 20;
// A thread is worth waking for this many elements.
constexpr int64_t kGrainElements = 16384;

int64_t grain(int64_t elements) { return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, elements)); }

ChannelAttentionShape shape_of(const Tensor& x, int64_t heads, MemoryFormat format, bool normalised) {
  return {x.size(0), x.size(1), heads, x.size(2), x.size(3), format == MemoryFormat::ChannelsLast, normalised};
}

// The public function says it better, but the operators can be called without it, and must not read past the end.
void check(const Tensor& x, const Tensor& qkv, const Tensor& depthwise, const std::optional<Tensor>& temperature,
           const Tensor& projection, int64_t heads) {
  STD_TORCH_CHECK(x.dim() == 4 && x.numel() > 0, "channel_attention: x must be [N, C, H, W], every size at least 1");
  const int64_t C = x.size(1);
  STD_TORCH_CHECK(heads > 0 && C % heads == 0, "channel_attention: heads must divide the channels");
  STD_TORCH_CHECK(qkv.numel() == 3 * C * C && depthwise.numel() == 27 * C && projection.numel() == C * C &&
                      (!temperature || temperature->numel() == heads),
                  "channel_attention: the weights do not fit x");
}

// The parameters as the loops want them; holds them while they are used.
struct Parameters {
  Tensor qkv, depthwise, temperature, projection;
  bool normalised;
  Parameters(const Tensor& qkv, const Tensor& depthwise, const std::optional<Tensor>& temperature,
             const Tensor& projection, ScalarType acc)
      : qkv(parameter_of(qkv, acc)),
        depthwise(parameter_of(depthwise, acc)),
        temperature(temperature ? parameter_of(*temperature, acc) : this->qkv),
        projection(parameter_of(projection, acc)),
        normalised(temperature.has_value()) {}
  ChannelAttentionWeights pointers() const {
    return {qkv.const_data_ptr(), depthwise.const_data_ptr(), normalised ? temperature.const_data_ptr() : nullptr,
            projection.const_data_ptr()};
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& input, const Tensor& qkv, const Tensor& depthwise,
                                                   const std::optional<Tensor>& temperature, const Tensor& projection,
                                                   int64_t heads, bool keep,
                                                   const std::optional<Tensor>& /* packed: of GPUs */,
                                                   const std::string& /* backend: of GPUs */) {
  check(input, qkv, depthwise, temperature, projection, heads);
  const MemoryFormat format = format_of(input);
  const Tensor x = laid_out(input, format);
  const ScalarType acc = acc_of(x);
  const Parameters parameters(qkv, depthwise, temperature, projection, acc);
  const ChannelAttentionShape shape = shape_of(x, heads, format, parameters.normalised);
  const int64_t N = shape.images, C = shape.channels;
  Tensor y = torch::stable::empty_like(x);
  Tensor v = acc == x.scalar_type() ? y : torch::stable::new_empty(x, {x.numel()}, acc);
  Tensor kept = keep ? torch::stable::new_empty(x, {N, 3 * C, shape.height, shape.width}, acc)
                     : torch::stable::new_empty(x, {0}, acc);
  Tensor gram = torch::stable::new_empty(x, {N, shape.sums()}, acc);
  Tensor attn = torch::stable::new_empty(x, {N, C, shape.head()}, acc);
  Tensor sums = torch::stable::new_empty(x, {shape.units(), shape.sums()}, acc);
  Tensor fused = torch::stable::new_empty(x, {N, C, shape.padded()}, acc);

  const ChannelAttentionForward arguments = {shape,
                                             parameters.pointers(),
                                             x.const_data_ptr(),
                                             y.mutable_data_ptr(),
                                             v.mutable_data_ptr(),
                                             keep ? kept.mutable_data_ptr() : nullptr,
                                             sums.mutable_data_ptr(),
                                             gram.mutable_data_ptr(),
                                             attn.mutable_data_ptr(),
                                             fused.mutable_data_ptr()};
  const Scalar scalar = scalar_of(x);
  const ChannelAttentionKernels& kernels = AMINET_PICK(channel_attention);
  const int64_t unit = grain(shape.unit_rows() * shape.width * C);
  parallel_for(0, shape.units(), unit, [&](int64_t first, int64_t last) {
    kernels.gram(scalar, arguments, first, last);
  });
  parallel_for(0, N, grain(C * C * shape.head() / 16), [&](int64_t first, int64_t last) {
    kernels.softmax(scalar, arguments, first, last);
  });
  parallel_for(0, shape.units(), unit, [&](int64_t first, int64_t last) {
    kernels.project(scalar, arguments, first, last);
  });
  return {y, gram, attn, kept};
}

// to [elements] (Acc, zeroed) += parts [count][stride], each from its element `first` on; always in the same order.
template <typename Acc>
void add_parts(const Tensor& parts, int64_t first, Tensor& to) {
  const int64_t count = parts.size(0), stride = parts.numel() / count, elements = to.numel();
  const Acc* from = static_cast<const Acc*>(parts.const_data_ptr()) + first;
  Acc* sum = static_cast<Acc*>(to.mutable_data_ptr());
  for (int64_t part = 0; part < count; ++part, from += stride)
    for (int64_t i = 0; i < elements; ++i) sum[i] += from[i];
}

// As `like`, from the parts; or empty.
Tensor total(const Tensor& parts, int64_t first, const Tensor& like, bool needed) {
  if (!needed) return torch::stable::new_empty(like, {0});
  std::vector<int64_t> size;
  for (int64_t i = 0; i < like.dim(); ++i) size.push_back(like.size(i));
  Tensor to = torch::stable::new_zeros(parts, size);
  to.scalar_type() == ScalarType::Double ? add_parts<double>(parts, first, to) : add_parts<float>(parts, first, to);
  return converted(to, like.scalar_type());
}

// to [C out][C in] (zeroed) += parts [images][C in][padded out]
template <typename Acc>
void add_transposed(const ChannelAttentionShape& s, const Tensor& parts, Tensor& to) {
  const Acc* from = static_cast<const Acc*>(parts.const_data_ptr());
  Acc* sum = static_cast<Acc*>(to.mutable_data_ptr());
  for (int64_t image = 0; image < s.images; ++image)
    for (int64_t in = 0; in < s.channels; ++in, from += s.padded())
      for (int64_t out = 0; out < s.channels; ++out) sum[out * s.channels + in] += from[out];
}

Tensor projection_total(const ChannelAttentionShape& s, const Tensor& parts, const Tensor& like) {
  Tensor to = torch::stable::new_zeros(parts, {s.channels, s.channels, 1, 1});
  to.scalar_type() == ScalarType::Double ? add_transposed<double>(s, parts, to) : add_transposed<float>(s, parts, to);
  return converted(to, like.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& input, const Tensor& qkv, const Tensor& depthwise,
    const std::optional<Tensor>& temperature, const Tensor& projection, const Tensor& gram, const Tensor& attn,
    const Tensor& kept, int64_t heads, bool need_x, bool need_qkv, bool need_depthwise, const std::string&) {
  check(input, qkv, depthwise, temperature, projection, heads);
  const MemoryFormat format = format_of(input);
  const Tensor x = laid_out(input, format), dy = laid_out(converted(grad, x.scalar_type()), format);
  const ScalarType acc = acc_of(x);
  const Parameters parameters(qkv, depthwise, temperature, projection, acc);
  const ChannelAttentionShape shape = shape_of(x, heads, format, parameters.normalised);
  const int64_t N = shape.images, C = shape.channels, d = shape.head(), elements = 3 * C * (C + 9);
  STD_TORCH_CHECK(dy.numel() == x.numel() && gram.numel() == N * shape.sums() && attn.numel() == N * shape.gram() &&
                      (kept.numel() == 0 || kept.numel() == 3 * x.numel()) && gram.scalar_type() == acc &&
                      attn.scalar_type() == acc && kept.scalar_type() == acc,
                  "channel_attention: dy must have the sizes of x; gram, attn and kept must be the forward's");
  const Tensor sums = parameter_of(gram, acc), weights = parameter_of(attn, acc), saved = parameter_of(kept, acc);
  const auto room = [&](std::initializer_list<int64_t> size) {
    return torch::stable::new_empty(x, std::vector<int64_t>(size), acc);
  };
  const bool need_pixels = need_x || need_qkv || need_depthwise;
  const int64_t tasks =
      std::min(shape.units(), std::clamp<int64_t>(kPartialElements / elements, kLeastTasks, kMostTasks));
  Tensor dfused = room({shape.units(), C, shape.padded()}), fused = room({N, C, shape.padded()}), mix_q = room({N, C, d}),
         mix_k = room({N, C, d}), scales = room({N, 2, C}), dprojection = room({N, C, shape.padded()}), dtemperature = room({N, heads}),
         partial = room({need_pixels ? tasks : 0, elements});
  Tensor dx = need_x ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});

  const ChannelAttentionBackward arguments = {shape,
                                              parameters.pointers(),
                                              dy.const_data_ptr(),
                                              x.const_data_ptr(),
                                              kept.numel() > 0 ? saved.const_data_ptr() : nullptr,
                                              sums.const_data_ptr(),
                                              weights.const_data_ptr(),
                                              dfused.mutable_data_ptr(),
                                              fused.mutable_data_ptr(),
                                              mix_q.mutable_data_ptr(),
                                              mix_k.mutable_data_ptr(),
                                              scales.mutable_data_ptr(),
                                              dprojection.mutable_data_ptr(),
                                              dtemperature.mutable_data_ptr(),
                                              need_x ? dx.mutable_data_ptr() : nullptr,
                                              partial.mutable_data_ptr(),
                                              need_qkv,
                                              tasks};
  const Scalar scalar = scalar_of(x);
  const ChannelAttentionKernels& kernels = AMINET_PICK(channel_attention);
  const int64_t unit = shape.unit_rows() * shape.width * C;
  parallel_for(0, shape.units(), grain(unit), [&](int64_t first, int64_t last) {
    kernels.dfused(scalar, arguments, first, last);
  });
  parallel_for(0, N, grain(C * C * d / 16), [&](int64_t first, int64_t last) {
    kernels.dsoftmax(scalar, arguments, first, last);
  });
  if (need_pixels)
    parallel_for(0, tasks, grain(unit * shape.units() / tasks), [&](int64_t first, int64_t last) {
      kernels.dqkv(scalar, arguments, first, last);
    });
  return {dx, total(partial, 0, qkv, need_qkv), total(partial, 3 * C * C, depthwise, need_depthwise),
          total(dtemperature, 0, temperature ? *temperature : dtemperature, temperature.has_value()),
          projection_total(shape, dprojection, projection)};
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("channel_attention_fwd", TORCH_BOX(&aminet::forward));
  m.impl("channel_attention_bwd", TORCH_BOX(&aminet::backward));
}
