// aminet_fast::layer_norm2d_fwd and _bwd for CPU tensors; the schemas are in aminet_fast/ops/layer_norm2d.py.
#include "cpu/layer_norm2d.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "cpu/tensors.h"

namespace aminet {
namespace {

// The backward's sums are cut into at most this many partial ones, a fixed number so that the result does not depend on
// the threads; enough for any machine's cores.
constexpr int64_t kChunks = 64;
// A thread is worth waking for this many elements.
constexpr int64_t kGrainElements = 16384;

LayerNormShape shape_of(const Tensor& x, MemoryFormat format) {
  return {x.size(0), x.size(1), x.size(2) * x.size(3), format == MemoryFormat::ChannelsLast};
}

// The public function says it better, but the operators can be called without it, and must not read past the end.
void check_image(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.numel() > 0, "layer_norm2d: x must be [N, C, H, W] with every size at least 1");
}

void check_same_sizes(const Tensor& a, const Tensor& x) {
  bool same = a.dim() == x.dim();
  for (int64_t i = 0; same && i < x.dim(); ++i) same = a.size(i) == x.size(i);
  STD_TORCH_CHECK(same, "layer_norm2d: the gradient must have the sizes of x");
}

void check_statistics(const Tensor& s, const Tensor& x, ScalarType acc) {
  STD_TORCH_CHECK(s.numel() * x.size(1) == x.numel() && s.scalar_type() == acc,
                  "layer_norm2d: mean and rstd must be the forward's");
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& input, const Tensor& weight, const Tensor& bias, double eps) {
  check_image(input);
  const MemoryFormat format = format_of(input);
  const Tensor x = laid_out(input, format);
  const ScalarType acc = acc_of(x);
  const Tensor w = parameter_of(weight, acc), b = parameter_of(bias, acc);
  STD_TORCH_CHECK(w.numel() == x.size(1) && b.numel() == x.size(1), "layer_norm2d: weight and bias must be [C]");
  Tensor y = torch::stable::empty_like(x);
  Tensor mean = torch::stable::new_empty(x, {x.size(0), x.size(2), x.size(3)}, acc);
  Tensor rstd = torch::stable::new_empty(x, {x.size(0), x.size(2), x.size(3)}, acc);

  const LayerNormShape shape = shape_of(x, format);
  const LayerNormForward arguments = {shape, x.const_data_ptr(),   w.const_data_ptr(),     b.const_data_ptr(),
                                      eps,   y.mutable_data_ptr(), mean.mutable_data_ptr(), rstd.mutable_data_ptr()};
  const Scalar scalar = scalar_of(x);
  const LayerNormKernels& kernels = AMINET_PICK(layer_norm2d);
  const int64_t grain = std::max<int64_t>(1, kGrainElements / (kLayerNormBlock * shape.channels));
  parallel_for(0, layer_norm_blocks(shape), grain, [&](int64_t first, int64_t last) {
    kernels.forward(scalar, arguments, first, last);
  });
  return {y, mean, rstd};
}

// The partial sums, always added in the same order. dweight and dbias are Acc [C].
template <typename Acc>
void add_partials(const Tensor& partial, Tensor& dweight, Tensor& dbias) {
  const int64_t chunks = partial.size(0), C = partial.size(2);
  const Acc* from = static_cast<const Acc*>(partial.const_data_ptr());
  Acc *dw = static_cast<Acc*>(dweight.mutable_data_ptr()), *db = static_cast<Acc*>(dbias.mutable_data_ptr());
  for (int64_t chunk = 0; chunk < chunks; ++chunk, from += 2 * C)
    for (int64_t c = 0; c < C; ++c) {
      dw[c] += from[c];
      db[c] += from[C + c];
    }
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                            const Tensor& mean, const Tensor& rstd) {
  check_image(input);
  check_same_sizes(grad, input);
  check_statistics(mean, input, acc_of(input));
  check_statistics(rstd, input, acc_of(input));
  STD_TORCH_CHECK(weight.numel() == input.size(1), "layer_norm2d: weight must be [C]");
  const MemoryFormat format = format_of(input);
  const Tensor x = laid_out(input, format);
  const Tensor dy = laid_out(converted(grad, x.scalar_type()), format);
  const ScalarType acc = acc_of(x);
  const Tensor w = parameter_of(weight, acc), m = parameter_of(mean, acc), r = parameter_of(rstd, acc);
  const LayerNormShape shape = shape_of(x, format);
  const int64_t chunks = std::min(kChunks, layer_norm_blocks(shape));
  Tensor dx = torch::stable::empty_like(x);
  Tensor partial = torch::stable::new_zeros(x, {chunks, 2, shape.channels}, acc);

  const LayerNormBackward arguments = {shape, dy.const_data_ptr(), x.const_data_ptr(), w.const_data_ptr(),
                                       m.const_data_ptr(), r.const_data_ptr(), dx.mutable_data_ptr(),
                                       partial.mutable_data_ptr(), chunks};
  const Scalar scalar = scalar_of(x);
  const LayerNormKernels& kernels = AMINET_PICK(layer_norm2d);
  parallel_for(0, chunks, std::max<int64_t>(1, kGrainElements * chunks / x.numel()),
                              [&](int64_t first, int64_t last) { kernels.backward(scalar, arguments, first, last); });

  Tensor dweight = torch::stable::new_zeros(x, {shape.channels}, acc);
  Tensor dbias = torch::stable::new_zeros(x, {shape.channels}, acc);
  if (acc == ScalarType::Double)
    add_partials<double>(partial, dweight, dbias);
  else
    add_partials<float>(partial, dweight, dbias);
  return {dx, converted(dweight, weight.scalar_type()), converted(dbias, weight.scalar_type())};
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("layer_norm2d_fwd", TORCH_BOX(&aminet::forward));
  m.impl("layer_norm2d_bwd", TORCH_BOX(&aminet::backward));
}
