// aminet_fast::skaf_gate_fwd and _bwd for CPU tensors; the schemas are in aminet_fast/ops/skaf_gate.py.
#include "cpu/skaf_gate.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "cpu/tensors.h"

namespace aminet {
namespace {

// The backward's sums are cut into at most this many partial ones of at least this many pixels: numbers that depend
// on the shape alone, so that the result does not depend on the threads.
constexpr int64_t kChunks = 64, kChunkPixels = 2048;
// A thread is worth waking for this many elements.
constexpr int64_t kGrainElements = 16384;

SkafGateShape shape_of(const Tensor& g, const Tensor& weight, MemoryFormat format) {
  return {g.size(0), g.size(1), g.size(2), g.size(3), weight.size(3), format == MemoryFormat::ChannelsLast};
}

int64_t grain_of(const SkafGateShape& s) {
  return std::max<int64_t>(1, kGrainElements / (s.block_rows() * s.width * s.channels));
}

void check(const Tensor& m, const Tensor& weight, const Tensor& bias, const Tensor& g, const Tensor& l) {
  STD_TORCH_CHECK(g.dim() == 4 && m.dim() == 4 && weight.dim() == 4 && g.numel() > 0,
                  "skaf_gate: m, weight and g must be 4-dimensional, every size at least 1");
  STD_TORCH_CHECK(m.size(0) == g.size(0) && m.size(1) == 2 && m.size(2) == g.size(2) && m.size(3) == g.size(3),
                  "skaf_gate: m must be [N, 2, H, W] beside g [N, C, H, W]");
  STD_TORCH_CHECK(weight.size(0) == 2 && weight.size(1) == 2 && weight.size(2) == weight.size(3) &&
                      weight.size(2) % 2 == 1,
                  "skaf_gate: weight must be [2, 2, K, K] of odd K");
  STD_TORCH_CHECK(bias.numel() == 2 && l.numel() == g.numel() && l.scalar_type() == g.scalar_type(),
                  "skaf_gate: bias must be [2], local as g");
}

// Rows [first, last) of the bordered planes, counted through all images and both maps.
template <typename Acc>
void border_rows(const SkafGateShape& s, const Tensor& m, Acc* to, int64_t first, int64_t last) {
  const int64_t rows = s.height + s.kernel - 1, step = m.stride(3);
  to += first * s.pitch();
  for (int64_t i = first; i < last; ++i, to += s.pitch()) {
    const int64_t y = i % rows - s.border(), map = i / rows % 2, image = i / rows / 2;
    std::fill_n(to, s.pitch(), Acc(0));
    if (y < 0 || y >= s.height) continue;
    const Acc* row = static_cast<const Acc*>(m.const_data_ptr()) + image * m.stride(0) + map * m.stride(1) +
                     y * m.stride(2);
    Acc* inside = to + s.border();
    if (step == 1)
      std::copy_n(row, s.width, inside);
    else
      for (int64_t x = 0; x < s.width; ++x) inside[x] = row[x * step];
  }
}

Tensor planes(const SkafGateShape& s, const Tensor& like, ScalarType acc) {
  return torch::stable::new_empty(like, {s.images, 2, s.height + s.kernel - 1, s.pitch()}, acc);
}

// m as Acc planes inside a border of zeros.
Tensor bordered(const SkafGateShape& s, const Tensor& m, ScalarType acc) {
  Tensor to = planes(s, m, acc);
  const Tensor from = converted(m, acc);
  void* data = to.mutable_data_ptr();
  parallel_for(0, s.images * 2 * (s.height + s.kernel - 1), kGrainElements / s.pitch() + 1,
               [&](int64_t first, int64_t last) {
                 acc == ScalarType::Double ? border_rows(s, from, static_cast<double*>(data), first, last)
                                           : border_rows(s, from, static_cast<float*>(data), first, last);
               });
  return to;
}

Tensor zeros(const SkafGateShape& s, const Tensor& like, ScalarType acc) {
  return torch::stable::new_zeros(like, {s.images, 2, s.height + s.kernel - 1, s.pitch()}, acc);
}

std::tuple<Tensor, Tensor> forward(const Tensor& m, const Tensor& weight, const Tensor& bias, const Tensor& g_input,
                                   const Tensor& l_input, const std::optional<Tensor>& residual) {
  check(m, weight, bias, g_input, l_input);
  const MemoryFormat format = format_of(g_input);
  const Tensor g = laid_out(g_input, format), l = laid_out(l_input, format);
  const ScalarType acc = acc_of(g);
  const SkafGateShape shape = shape_of(g, weight, format);
  const Tensor w = parameter_of(weight, acc), b = parameter_of(bias, acc), maps = bordered(shape, m, acc);
  STD_TORCH_CHECK(!residual || (residual->numel() == g.numel() && residual->scalar_type() == g.scalar_type()),
                  "skaf_gate: residual must be as g");
  const Tensor r = residual ? laid_out(*residual, format) : g;
  Tensor y = torch::stable::empty_like(g);
  Tensor gates = torch::stable::new_empty(g, {g.size(0), 2, g.size(2), g.size(3)}, acc);

  const SkafGateForward arguments = {shape,
                                     maps.const_data_ptr(),
                                     w.const_data_ptr(),
                                     b.const_data_ptr(),
                                     g.const_data_ptr(),
                                     l.const_data_ptr(),
                                     residual ? r.const_data_ptr() : nullptr,
                                     y.mutable_data_ptr(),
                                     gates.mutable_data_ptr()};
  const Scalar scalar = scalar_of(g);
  const SkafGateKernels& kernels = AMINET_PICK(skaf_gate);
  parallel_for(0, shape.images * shape.image_blocks(), grain_of(shape),
                              [&](int64_t first, int64_t last) { kernels.forward(scalar, arguments, first, last); });
  return {y, gates};
}

// [2 out][2 in][K][K] to [2 in][2 out][K][K], turned by half a turn: what carries dz back to m.
template <typename Acc>
void flip(const Tensor& weight, Tensor& flipped) {
  const int64_t taps = weight.numel() / 4;
  const Acc* from = static_cast<const Acc*>(weight.const_data_ptr());
  Acc* to = static_cast<Acc*>(flipped.mutable_data_ptr());
  for (int64_t out = 0; out < 2; ++out)
    for (int64_t in = 0; in < 2; ++in)
      std::reverse_copy(from + (out * 2 + in) * taps, from + (out * 2 + in + 1) * taps, to + (in * 2 + out) * taps);
}

// The partial sums [chunks][filters + 2], always added in the same order.
template <typename Acc>
void add_partials(const Tensor& partial, Tensor& dweight, Tensor& dbias) {
  const int64_t chunks = partial.size(0), filters = dweight.numel();
  const Acc* from = static_cast<const Acc*>(partial.const_data_ptr());
  Acc *dw = static_cast<Acc*>(dweight.mutable_data_ptr()), *db = static_cast<Acc*>(dbias.mutable_data_ptr());
  for (int64_t chunk = 0; chunk < chunks; ++chunk, from += filters + 2) {
    for (int64_t i = 0; i < filters; ++i) dw[i] += from[i];
    for (int64_t i = 0; i < 2; ++i) db[i] += from[filters + i];
  }
}

// dm (Acc), dweight and dbias (Acc) from dz; those not needed are empty.
std::tuple<Tensor, Tensor, Tensor> maps_backward(const SkafGateShape& shape, const Tensor& dz, const Tensor& m,
                                                 const Tensor& weight, bool need_m, bool need_weight) {
  const ScalarType acc = dz.scalar_type();
  const Tensor w = parameter_of(weight, acc);
  const int64_t pixels = shape.images * shape.pixels();
  const int64_t chunks = std::min(std::clamp<int64_t>(pixels / kChunkPixels, 1, kChunks), shape.images * shape.height);
  const auto none = [&] { return torch::stable::new_empty(dz, {0}); };
  Tensor flipped = none(), dm = none(), maps = none(), partial = none(), dweight = none(), dbias = none();
  if (need_m) {
    flipped = torch::stable::empty_like(w);
    acc == ScalarType::Double ? flip<double>(w, flipped) : flip<float>(w, flipped);
    dm = torch::stable::new_empty(dz, {shape.images, 2, shape.height, shape.width});
  }
  if (need_weight) {
    maps = bordered(shape, m, acc);
    partial = torch::stable::new_empty(dz, {chunks, shape.filters() + 2});
    dweight = torch::stable::new_zeros(dz, {2, 2, shape.kernel, shape.kernel});
    dbias = torch::stable::new_zeros(dz, {2});
  }
  const SkafGateMaps arguments = {shape,
                                  dz.const_data_ptr(),
                                  maps.const_data_ptr(),
                                  flipped.const_data_ptr(),
                                  need_m ? dm.mutable_data_ptr() : nullptr,
                                  need_weight ? partial.mutable_data_ptr() : nullptr,
                                  chunks};
  const Scalar scalar = scalar_of(dz);
  const SkafGateKernels& kernels = AMINET_PICK(skaf_gate);
  parallel_for(0, chunks, 1,
                              [&](int64_t first, int64_t last) { kernels.maps(scalar, arguments, first, last); });
  if (need_weight && acc == ScalarType::Double) add_partials<double>(partial, dweight, dbias);
  if (need_weight && acc == ScalarType::Float) add_partials<float>(partial, dweight, dbias);
  return {dm, dweight, dbias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& m, const Tensor& weight,
                                                            const Tensor& g_input, const Tensor& l_input,
                                                            const Tensor& gates_input, bool need_m, bool need_weight,
                                                            bool need_branches) {
  const MemoryFormat format = format_of(g_input);
  const Tensor g = laid_out(g_input, format), l = laid_out(l_input, format);
  const Tensor dy = laid_out(converted(grad, g.scalar_type()), format);
  const Tensor gates = laid_out(gates_input, MemoryFormat::Contiguous);
  const ScalarType acc = acc_of(g);
  const SkafGateShape shape = shape_of(g, weight, format);
  const bool need_maps = need_m || need_weight;
  // Outputs of an operator must not share storage, empty ones included.
  const auto none = [&](ScalarType type) { return torch::stable::new_empty(g, {0}, type); };
  Tensor dg = need_branches ? torch::stable::empty_like(g) : none(g.scalar_type());
  Tensor dl = need_branches ? torch::stable::empty_like(g) : none(g.scalar_type());
  Tensor dz = need_maps ? zeros(shape, g, acc) : none(acc);

  const SkafGateBranches arguments = {shape,
                                      dy.const_data_ptr(),
                                      g.const_data_ptr(),
                                      l.const_data_ptr(),
                                      gates.const_data_ptr(),
                                      need_branches ? dg.mutable_data_ptr() : nullptr,
                                      need_branches ? dl.mutable_data_ptr() : nullptr,
                                      need_maps ? dz.mutable_data_ptr() : nullptr};
  const Scalar scalar = scalar_of(g);
  const SkafGateKernels& kernels = AMINET_PICK(skaf_gate);
  if (need_branches || need_maps)
    parallel_for(0, shape.images * shape.image_blocks(), grain_of(shape),
                                [&](int64_t first, int64_t last) { kernels.branches(scalar, arguments, first, last); });
  const ScalarType of_weight = weight.scalar_type();
  if (!need_maps) return {none(m.scalar_type()), none(of_weight), none(of_weight), dg, dl};
  const auto [dm, dweight, dbias] = maps_backward(shape, dz, m, weight, need_m, need_weight);
  return {converted(dm, m.scalar_type()), converted(dweight, of_weight),
          converted(dbias, of_weight), dg, dl};
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("skaf_gate_fwd", TORCH_BOX(&aminet::forward));
  m.impl("skaf_gate_bwd", TORCH_BOX(&aminet::backward));
}
