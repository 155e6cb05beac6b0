// aminet_fast::hourglass_gate_fwd and _bwd for CPU tensors; the schemas are in aminet_fast/ops/hourglass_gate.py.
#include "cpu/hourglass_gate.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "cpu/tensors.h"

namespace aminet {
namespace {

// A thread is worth waking for this many elements.
constexpr int64_t kGrainElements = 16384;

int64_t grain_of(const HourglassShape& s) {
  return std::max<int64_t>(1, kGrainElements / (s.band_rows() * s.width * (s.channels + s.maps)));
}

// values [N, C, H, W] channels_last, scale and shift [C] of the type of the sums
struct Norm {
  Tensor values, scale, shift;

  Norm(const Tensor& values, const Tensor& scale, const Tensor& shift, ScalarType acc)
      : values(laid_out(values, MemoryFormat::ChannelsLast)),
        scale(parameter_of(scale, acc)),
        shift(parameter_of(shift, acc)) {
    STD_TORCH_CHECK(scale.numel() == values.size(1) && shift.numel() == values.size(1),
                    "hourglass_gate: scale and shift must have one value a channel");
  }
  operator HourglassNorm() const {
    return {values.const_data_ptr(), scale.const_data_ptr(), shift.const_data_ptr()};
  }
};

HourglassShape shape_of(const Tensor& x, const Tensor& a, const Tensor& b, const Tensor& weight) {
  STD_TORCH_CHECK(x.dim() == 4 && a.dim() == 4 && b.dim() == 4 && x.numel() > 0 && a.numel() > 0,
                  "hourglass_gate: x, a and b must be [N, C, H, W] with every size at least 1");
  for (int i : {0, 2, 3})
    STD_TORCH_CHECK(a.size(i) == x.size(i) && b.size(i) == x.size(i), "hourglass_gate: a and b must be as large as x");
  STD_TORCH_CHECK(a.scalar_type() == x.scalar_type() && b.scalar_type() == x.scalar_type(),
                  "hourglass_gate: a and b must be of x's dtype");
  STD_TORCH_CHECK(b.size(1) == a.size(1) && weight.numel() == 9 * a.size(1),
                  "hourglass_gate: b must be as a, and weight [1, M, 3, 3]");
  return {x.size(0), x.size(1), a.size(1), x.size(2), x.size(3)};
}

// weight [1, M, 3, 3] by its strides to element (map * map_step + tap * tap_step)
template <typename Acc>
void place_weight(const Tensor& weight, Tensor& to, int64_t map_step, int64_t tap_step) {
  const Acc* from = static_cast<const Acc*>(weight.const_data_ptr());
  Acc* out = static_cast<Acc*>(to.mutable_data_ptr());
  for (int64_t map = 0; map < weight.size(1); ++map)
    for (int64_t tap = 0; tap < 9; ++tap) out[map * map_step + tap * tap_step] = from[map * 9 + tap];
}

Tensor placed(const Tensor& weight, ScalarType acc, int64_t count, int64_t map_step, int64_t tap_step) {
  const Tensor w = parameter_of(weight, acc);  // NCHW
  Tensor to = torch::stable::new_zeros(w, {count});
  acc == ScalarType::Double ? place_weight<double>(w, to, map_step, tap_step)
                            : place_weight<float>(w, to, map_step, tap_step);
  return to;
}

std::tuple<Tensor, Tensor> forward(const Tensor& residual, const Tensor& x, const Tensor& x_scale,
                                   const Tensor& x_shift, const Tensor& a, const Tensor& a_scale,
                                   const Tensor& a_shift, const Tensor& b, const Tensor& b_scale,
                                   const Tensor& b_shift, const Tensor& weight, const Tensor& bias, double slope) {
  const HourglassShape shape = shape_of(x, a, b, weight);
  STD_TORCH_CHECK(residual.numel() == x.numel() && residual.scalar_type() == x.scalar_type() && bias.numel() == 1,
                  "hourglass_gate: z must be as x, bias [1]");
  const ScalarType acc = acc_of(x);
  const Tensor z = laid_out(residual, MemoryFormat::ChannelsLast), constant = parameter_of(bias, acc);
  const Norm norm(x, x_scale, x_shift, acc), first(a, a_scale, a_shift, acc), second(b, b_scale, b_shift, acc);
  const Tensor w = placed(weight, acc, shape.maps * kHourglassTaps, kHourglassTaps, 1);
  Tensor y = torch::stable::empty_like(norm.values);
  Tensor gate = torch::stable::new_empty(x, {shape.images, 1, shape.height, shape.width}, acc);
  const HourglassForward arguments = {shape, z.const_data_ptr(), norm, first, second, w.const_data_ptr(),
                                      constant.const_data_ptr(), slope, y.mutable_data_ptr(), gate.mutable_data_ptr()};
  const Scalar scalar = scalar_of(x);
  const HourglassKernels& kernels = AMINET_PICK(hourglass_gate);
  parallel_for(
      0, shape.images * shape.image_bands(), grain_of(shape),
      [&](int64_t begin, int64_t end) { kernels.forward(scalar, arguments, begin, end); });
  return {y, gate};
}

// partial [bands][size], always added in the same order.
template <typename Acc>
std::vector<double> add_partials(const Tensor& partial) {
  std::vector<double> sum(partial.size(1));
  const Acc* from = static_cast<const Acc*>(partial.const_data_ptr());
  for (int64_t band = 0; band < partial.size(0); ++band)
    for (double& s : sum) s += *from++;
  return sum;
}

Tensor part_of(const std::vector<double>& sums, int64_t first, const std::vector<int64_t>& size, const Tensor& like,
               ScalarType acc) {
  Tensor to = torch::stable::new_empty(like, size, acc);
  for (int64_t i = 0; i < to.numel(); ++i)
    if (acc == ScalarType::Double)
      static_cast<double*>(to.mutable_data_ptr())[i] = sums[first + i];
    else
      static_cast<float*>(to.mutable_data_ptr())[i] = static_cast<float>(sums[first + i]);
  return converted(to, like.scalar_type());
}

std::vector<double> sums_of(const Tensor& partial) {
  return partial.scalar_type() == ScalarType::Double ? add_partials<double>(partial) : add_partials<float>(partial);
}

// The gradients of x, its scale and shift, a ..., b ..., weight and bias; that of z is dy.
std::vector<Tensor> backward(const Tensor& grad, const Tensor& x, const Tensor& x_scale, const Tensor& x_shift,
                             const Tensor& a, const Tensor& a_scale, const Tensor& a_shift, const Tensor& b,
                             const Tensor& b_scale, const Tensor& b_shift, const Tensor& weight, const Tensor& gates,
                             double slope) {
  const HourglassShape s = shape_of(x, a, b, weight);
  const ScalarType acc = acc_of(x);
  STD_TORCH_CHECK(grad.numel() == x.numel() && gates.numel() == s.images * s.pixels() && gates.scalar_type() == acc,
                  "hourglass_gate: dy must be as x, gate the forward's");
  const Tensor dy = laid_out(converted(grad, x.scalar_type()), MemoryFormat::ChannelsLast);
  const Tensor gate = parameter_of(gates, acc);
  const Norm norm(x, x_scale, x_shift, acc), first(a, a_scale, a_shift, acc), second(b, b_scale, b_shift, acc);
  const int64_t pitch = hourglass_padded(s.maps), bands = s.images * s.image_bands(), C = s.channels, M = s.maps;
  const Tensor w = placed(weight, acc, 9 * pitch, 1, pitch);
  Tensor dx = torch::stable::empty_like(norm.values);
  Tensor da = torch::stable::empty_like(first.values), db = torch::stable::empty_like(second.values);
  Tensor dlogit = torch::stable::new_zeros(x, {s.images, s.height + 4, s.width + 4}, acc);
  Tensor x_sums = torch::stable::new_empty(x, {bands, 2 * C + 1}, acc);
  Tensor map_sums = torch::stable::new_empty(x, {bands, kHourglassSums * pitch}, acc);
  const HourglassBackwardX of_x = {s, dy.const_data_ptr(), norm, gate.const_data_ptr(),
                                   dx.mutable_data_ptr(), dlogit.mutable_data_ptr(), x_sums.mutable_data_ptr()};
  const HourglassBackwardMaps of_maps = {s, first, second, w.const_data_ptr(), dlogit.const_data_ptr(), slope,
                                         da.mutable_data_ptr(), db.mutable_data_ptr(), map_sums.mutable_data_ptr()};
  const Scalar scalar = scalar_of(x);
  const HourglassKernels& kernels = AMINET_PICK(hourglass_gate);
  parallel_for(0, bands, grain_of(s), [&](int64_t begin, int64_t end) {
    kernels.backward_x(scalar, of_x, begin, end);
  });
  parallel_for(0, bands, grain_of(s), [&](int64_t begin, int64_t end) {
    kernels.backward_maps(scalar, of_maps, begin, end);
  });
  const std::vector<double> xs = sums_of(x_sums), ms = sums_of(map_sums);
  std::vector<double> taps(9 * M);  // NCHW
  for (int64_t map = 0; map < M; ++map)
    for (int64_t tap = 0; tap < 9; ++tap) taps[map * 9 + tap] = ms[tap * pitch + map];
  const Tensor dweight = part_of(taps, 0, {1, M, 3, 3}, weight, acc);
  return {laid_out(dx, format_of(x)),
          part_of(xs, 0, {C}, x_scale, acc),
          part_of(xs, C, {C}, x_shift, acc),
          laid_out(da, format_of(a)),
          part_of(ms, 9 * pitch, {M}, a_scale, acc),
          part_of(ms, 10 * pitch, {M}, a_shift, acc),
          laid_out(db, format_of(b)),
          part_of(ms, 11 * pitch, {M}, b_scale, acc),
          part_of(ms, 12 * pitch, {M}, b_shift, acc),
          dweight,
          part_of(xs, 2 * C, {1}, weight, acc)};
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("hourglass_gate_fwd", TORCH_BOX(&aminet::forward));
  m.impl("hourglass_gate_bwd", TORCH_BOX(&aminet::backward));
}
