// aminet_fast::multiscale_dwconv_fwd and _bwd for CPU tensors; the schemas are in aminet_fast/ops/multiscale_dwconv.py.
#include "cpu/multiscale_dwconv.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "cpu/tensors.h"

namespace aminet {
namespace {

Tensor empty_like_image(const Tensor& x) {
  const std::vector<int64_t> size = {x.size(0), x.size(1), x.size(2), x.size(3)};
  return torch::stable::empty(size, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

// [C, 1, K, K] to [block][tap][channel of block], as the kernels walk over it; `turned` by half a turn.
template <typename Acc>
void pack(const MultiscaleShape& s, const Tensor& weight, bool turned, Tensor& packed) {
  const int64_t taps = weight.numel() / s.channels;
  const Acc* from = static_cast<const Acc*>(weight.const_data_ptr());
  Acc* to = static_cast<Acc*>(packed.mutable_data_ptr());
  for (int64_t first = 0; first < s.channels; first += s.block())
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t c = first; c < std::min(first + s.block(), s.channels); ++c)
        *to++ = from[c * taps + (turned ? taps - 1 - tap : tap)];
}

// And back, the sums over the slabs; always added in the same order.
template <typename Acc>
void unpack(const MultiscaleDwconv& a, const MultiscaleBranch& branch, Tensor& dweight, Tensor& dbias) {
  const MultiscaleShape& s = a.shape;
  const Acc* partial = static_cast<const Acc*>(a.partial) + branch.sums;
  const int64_t taps = branch.taps(), length = s.channels * (taps + 1);
  std::vector<Acc> sums(partial, partial + length);
  for (int64_t slab = 1; slab < s.slabs(); ++slab)
    for (int64_t i = 0; i < length; ++i) sums[i] += partial[slab * a.slab + i];
  const Acc* from = sums.data();
  Acc* dw = static_cast<Acc*>(dweight.mutable_data_ptr());
  for (int64_t first = 0; first < s.channels; first += s.block())
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t c = first; c < std::min(first + s.block(), s.channels); ++c) dw[c * taps + tap] = *from++;
  std::copy_n(from, s.channels, static_cast<Acc*>(dbias.mutable_data_ptr()));
}

template <typename Acc>
void add_scale(const MultiscaleDwconv& a, Tensor& dscale) {
  const MultiscaleShape& s = a.shape;
  const Acc* from = static_cast<const Acc*>(a.partial) + a.scale_sums;
  Acc* to = static_cast<Acc*>(dscale.mutable_data_ptr());
  for (int64_t slab = 0; slab < s.slabs(); ++slab)
    for (int64_t c = 0; c < s.channels; ++c) to[slab / s.chunks() * s.channels + c] += from[slab * a.slab + c];
}

// What a call's arguments point into, and the arguments.
struct Call {
  std::vector<Tensor> kept;
  MultiscaleDwconv a = {};
  Scalar scalar;
  ScalarType acc;

  const void* keep(const Tensor& t) { return kept.emplace_back(t).const_data_ptr(); }

  Call(const std::vector<Tensor>& x, const std::vector<Tensor>& weights, const std::optional<Tensor>& scale,
       bool turned)
      : scalar(scalar_of(x.at(0))), acc(acc_of(x.at(0))) {
    STD_TORCH_CHECK(x[0].dim() == 4 && x[0].numel() > 0,
                    "multiscale_dwconv: x must be [N, C, H, W] with every size at least 1");
    STD_TORCH_CHECK(!weights.empty() && (x.size() == 1 || x.size() == weights.size()),
                    "multiscale_dwconv: x must be one tensor, or one for each of weights");
    a.shape = {x[0].size(0), x[0].size(1), x[0].size(2), x[0].size(3)};
    a.shared = x.size() == 1;
    for (size_t k = 0; k < weights.size(); ++k) {
      const Tensor &image = x[a.shared ? 0 : k], &weight = weights[k];
      STD_TORCH_CHECK(image.numel() == x[0].numel() && image.scalar_type() == x[0].scalar_type() && weight.dim() == 4 &&
                          weight.size(0) == a.shape.channels && weight.size(1) == 1 &&
                          weight.size(2) == weight.size(3) && weight.size(2) % 2 == 1,
                      "multiscale_dwconv: weights must be [C, 1, K, K] of odd K, for x of one shape and dtype");
      const Tensor w = parameter_of(weight, acc);
      Tensor packed = torch::stable::empty_like(w);
      acc == ScalarType::Double ? pack<double>(a.shape, w, turned, packed) : pack<float>(a.shape, w, turned, packed);
      MultiscaleBranch branch = {};
      branch.kernel = weight.size(2);
      branch.weight = keep(packed);
      branch.x = k > 0 && a.shared ? a.branches[0].x : keep(laid_out(image, MemoryFormat::ChannelsLast));
      a.branches.push_back(branch);
    }
    if (scale) {
      STD_TORCH_CHECK(scale->numel() == a.shape.images * a.shape.channels,
                      "multiscale_dwconv: scale must be [N, C, 1, 1]");
      a.scale = keep(parameter_of(*scale, acc));
    }
  }
};

std::vector<Tensor> forward(const std::vector<Tensor>& x, const std::vector<Tensor>& weights,
                            const std::vector<Tensor>& biases, const std::optional<Tensor>& scale) {
  Call call(x, weights, scale, false);
  STD_TORCH_CHECK(biases.size() == weights.size(), "multiscale_dwconv: one bias, maybe empty, for each of weights");
  std::vector<Tensor> y;
  for (size_t k = 0; k < weights.size(); ++k) {
    MultiscaleBranch& branch = call.a.branches[k];
    STD_TORCH_CHECK(biases[k].numel() == 0 || biases[k].numel() == call.a.shape.channels,
                    "multiscale_dwconv: biases must be [C], or empty");
    if (biases[k].numel() != 0) branch.bias = call.keep(parameter_of(biases[k], call.acc));
    branch.y = y.emplace_back(empty_like_image(x[0])).mutable_data_ptr();
  }
  const MultiscaleKernels& kernels = AMINET_PICK(multiscale_dwconv);
  parallel_for(0, call.a.shape.units(), 1, [&](int64_t first, int64_t last) {
    kernels.forward(call.scalar, call.a, first, last);
  });
  return y;
}

// Gradients that are not needed come back as empty lists, dscale as a tensor with no elements.
std::tuple<std::vector<Tensor>, std::vector<Tensor>, std::vector<Tensor>, Tensor> backward(
    const std::vector<Tensor>& dy, const std::vector<Tensor>& x, const std::vector<Tensor>& weights,
    const std::optional<Tensor>& scale, bool need_x, bool need_weights, bool need_scale) {
  Call call(x, weights, scale, true);
  MultiscaleDwconv& a = call.a;
  const ScalarType acc = call.acc;
  STD_TORCH_CHECK(dy.size() == weights.size(), "multiscale_dwconv: one dy for each of weights");
  STD_TORCH_CHECK(scale || !need_scale, "multiscale_dwconv: there is no scale to have a gradient");
  std::vector<Tensor> dx, dweights, dbiases;
  for (size_t k = 0; k < weights.size(); ++k) {
    MultiscaleBranch& branch = a.branches[k];
    STD_TORCH_CHECK(dy[k].dim() == 4 && dy[k].numel() == x[0].numel(), "multiscale_dwconv: each dy must be as x");
    branch.dy = call.keep(laid_out(converted(dy[k], x[0].scalar_type()), MemoryFormat::ChannelsLast));
    if (need_x && k < x.size()) branch.dx = dx.emplace_back(empty_like_image(x[0])).mutable_data_ptr();
    branch.sums = a.slab;
    if (need_weights) a.slab += a.shape.channels * (branch.taps() + 1);
  }
  a.need_weights = need_weights;
  a.need_scale = need_scale;
  a.scale_sums = a.slab;
  if (need_scale) a.slab += a.shape.channels;
  Tensor partial = torch::stable::new_empty(x[0], {a.shape.slabs() * a.slab}, acc);
  if (a.slab > 0) a.partial = partial.mutable_data_ptr();

  const MultiscaleKernels& kernels = AMINET_PICK(multiscale_dwconv);
  parallel_for(0, a.shape.units(), 1, [&](int64_t first, int64_t last) {
    kernels.backward(call.scalar, a, first, last);
  });
  for (size_t k = 0; need_weights && k < weights.size(); ++k) {
    const int64_t kernel = a.branches[k].kernel;
    Tensor dw = torch::stable::new_empty(x[0], {a.shape.channels, 1, kernel, kernel}, acc);
    Tensor db = torch::stable::new_empty(x[0], {a.shape.channels}, acc);
    acc == ScalarType::Double ? unpack<double>(a, a.branches[k], dw, db) : unpack<float>(a, a.branches[k], dw, db);
    dweights.push_back(converted(dw, weights[k].scalar_type()));
    dbiases.push_back(converted(db, weights[k].scalar_type()));
  }
  if (!need_scale) return {dx, dweights, dbiases, torch::stable::new_empty(x[0], {0})};
  Tensor dscale = torch::stable::new_zeros(x[0], {a.shape.images, a.shape.channels, 1, 1}, acc);
  acc == ScalarType::Double ? add_scale<double>(a, dscale) : add_scale<float>(a, dscale);
  return {dx, dweights, dbiases, converted(dscale, scale->scalar_type())};
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("multiscale_dwconv_fwd", TORCH_BOX(&aminet::forward));
  m.impl("multiscale_dwconv_bwd", TORCH_BOX(&aminet::backward));
}
