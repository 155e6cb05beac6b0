// The torch side of norm_act_conv's gradients on CUDA devices: launches, and what is between them.
#pragma once

#include "cuda/norm_act_conv_calls.h"

namespace aminet::nac {

// dy' as the kernels make it, and what it is made of; holds the memory.
struct Gradients {
  Tensor dy, y, mean, dmean, dvar;
  bool through;
  int outputs;

  Gradients(const Tensor& gradient, const std::optional<Tensor>& of_mean, const std::optional<Tensor>& of_var,
           const Tensor& result, const Tensor& means, const Call& call)
      : dy(image_of(converted(gradient, call.x.scalar_type()))),
        y(dy),
        mean(dy),
        dmean(dy),
        dvar(dy),
        through(of_mean.has_value() && of_var.has_value()),
        outputs(call.outputs) {
    if (through) y = image_of(result), mean = vector_of(means), dmean = vector_of(*of_mean), dvar = vector_of(*of_var);
    for (const Tensor& t : {dy, y})
      STD_TORCH_CHECK(t.size(0) == call.back.images && t.size(1) == outputs && t.size(2) == call.back.rows.from &&
                          t.size(3) == call.back.columns.from && t.scalar_type() == call.x.scalar_type(),
                      "norm_act_conv: dy and y do not fit x and weight");
  }

  // keep: room for what the gradient of the weight reads, of kept_of's size; or without elements.
  template <typename T>
  OutputGradient<T> gradient(Tensor& keep, const Kept& kept) const {
    OutputGradient<T> found = {};
    found.dy = data_of<T>(dy);
    found.inverse = 1.f / static_cast<float>(dy.size(0) * dy.size(2) * dy.size(3));
    found.channels = outputs;
    found.keep = keep.numel() ? room_of<T>(keep) : nullptr;
    found.kept = kept;
    if (through) {
      found.y = data_of<T>(y), found.mean = data_of<float>(mean);
      found.dmean = data_of<float>(dmean), found.dvar = data_of<float>(dvar);
    }
    return found;
  }
};

// What both gradients read after nearest x2.
template <typename T>
void sum2x2(const Call& call, const Gradients& gradients, Tensor& keep, const Kept& kept, cudaStream_t stream) {
  const int64_t octets = gradients.outputs / kOctet * call.back.images;
  const int rows = rows_of_strip(kept);
  const int64_t regular = octets * kept.columns * ceil_div(kept.rows, rows);
  const int64_t all = regular + octets * kept.slots * (kept.rows + kept.columns + kept.slots);
  AMINET_LAUNCH((sums2x2_kernel<T>), static_cast<unsigned>(ceil_div<int64_t>(all, 256)), 256, 0, stream,
                gradients.gradient<T>(keep, kept), call.back, rows, regular, all);
}

// dx, the blocks' sums for scale and shift, and in `keep` what the gradient of the weight reads.
inline ChannelParts input_gradient(const Call& call, const Gradients& gradients, const Tensor& weight,
                            const std::optional<Tensor>& packed, bool tf32, Tensor& dx, Tensor& partial, Tensor& keep,
                            cudaStream_t stream) {
  const Geometry& g = call.back;
  const Kept kept = kept_of(g, call.outputs);
  const Packed weights = call.weights(weight, packed, true, stream);
  int64_t parts = 0;
  by_product(call.x, tf32, [&](auto product) {
    using P = typename decltype(product)::type;
    using T = Data<P>;
    by_shape<P, true>(g, call.outputs, call.inputs, shared_bytes(), [&](auto choice, const Cut& cut) {
      using S = typename decltype(choice)::S;
      parts = tiles_of(g, S::height, S::width) * phase_blocks<S>(g, cut);
      partial = floats(call.x, 2 * call.inputs * parts);
      const InputGradient<T> finish = {data_of<T>(call.x), data_of<float>(call.scale), data_of<float>(call.shift),
                                       call.slope,         room_of<T>(dx),             room_of<float>(partial),
                                       call.inputs};
      if (g.rows.boxed) {
        sum2x2<T>(call, gradients, keep, kept, stream);
        run_windows<P, decltype(choice)>(KeptGradient<T>{data_of<T>(keep), kept}, weights, finish, g, cut, stream);
      } else {
        run_windows<P, decltype(choice)>(gradients.gradient<T>(keep, kept), weights, finish, g, cut, stream);
      }
    });
  });
  return {data_of<float>(partial), parts, call.inputs, {}, {}};
}

template <typename P, int PAIRS, int NT, typename Windows, typename Values>
void run_weight(const Call& call, const Windows& one, const Values& other, const Geometry& g, WeightCut cut,
                Tensor& partial, int& splits, cudaStream_t stream) {
  using S = WeightShape<P, PAIRS, NT>;
  const int groups = cut.slices * ceil_div(cut.others, S::NT * kOctet);
  const int64_t sums = static_cast<int64_t>(kTaps) * cut.ones * cut.others;
  // Two blocks for each multiprocessor of a large GPU, or one: what is between leaves some with twice the work.
  int64_t wanted = kSplitBlocks / groups;
  if (wanted * sums * 4 > kMostPartial) wanted = std::min(wanted / 2, kMostPartial / (sums * 4));
  cut.tiles = static_cast<int>(tiles_of(g, S::height, S::width));
  cut.each = ceil_div(cut.tiles, static_cast<int>(std::clamp<int64_t>(wanted, 1, ceil_div(cut.tiles, 2))));
  splits = ceil_div(cut.tiles, cut.each);
  partial = floats(call.x, splits * sums);
  const Window w = window_of(g, S::height, S::width, cut.octets, kOctetUnits<Data<P>>, S::threads, one.map(g));
  AMINET_LAUNCH((weight_kernel<P, S, Windows, Values>), dim3(splits, groups), S::threads, weight_bytes<S>(w),
                stream, one, other, room_of<float>(partial), g, w, cut);
}

// Slices of up to eight octets of the windows' channels whose window fits; the shape of a block by these and the values'.
template <typename P, typename Windows, typename Values>
void run_weights(const Call& call, const Windows& one, const Values& other, const Geometry& g, WeightCut cut,
                 Tensor& partial, int& splits, cudaStream_t stream) {
  const int all = cut.ones / kOctet;
  for (cut.slices = ceil_div(all, 8);; ++cut.slices) {
    cut.octets = ceil_div(all, cut.slices);
    using S = WeightShape<P, 2, sizeof(Data<P>) == 2 ? 8 : 3>;
    const Window w = window_of(g, S::height, S::width, cut.octets, kOctetUnits<Data<P>>, S::threads);
    if (weight_bytes<S>(w) <= shared_bytes() || cut.octets == 1) break;
  }
  cut.slices = ceil_div(all, cut.octets);
  const auto run = [&](auto pairs, auto nt) {
    run_weight<P, decltype(pairs)::value, decltype(nt)::value>(call, one, other, g, cut, partial, splits, stream);
  };
  using std::integral_constant;
  const bool few = cut.octets <= 4;  // a pair for each warp
  constexpr bool small = sizeof(Data<P>) == 2, slots = !std::is_same_v<Windows, Activation<Data<P>>>;
  if constexpr (small && !slots)
    if (few && cut.others > 32) return run(integral_constant<int, 1>{}, integral_constant<int, 8>{});
  if constexpr (small)
    if (!few && (slots || cut.others % 32 == 0)) return run(integral_constant<int, 2>{}, integral_constant<int, 4>{});
  if (few) return run(integral_constant<int, 1>{}, integral_constant<int, 3>{});
  if constexpr (!small || !slots) run(integral_constant<int, 2>{}, integral_constant<int, 3>{});
}

// The blocks' sums for the weight.
inline WeightParts weight_gradient(const Call& call, const Tensor& keep, bool tf32, Tensor& partial, cudaStream_t stream) {
  const bool doubled = call.back.rows.boxed;
  WeightParts found = {};
  found.ones = doubled ? call.outputs : call.inputs, found.others = doubled ? call.inputs : call.outputs;
  by_product(call.x, tf32, [&](auto product) {
    using P = typename decltype(product)::type;
    using T = Data<P>;
    const KeptGradient<T> gradient = {data_of<T>(keep), kept_of(call.back, call.outputs)};
    const WeightCut cut = {found.ones, found.others, 0, 0, 0, 0, doubled};
    if (doubled)
      run_weights<P>(call, gradient, call.activation<T>(), call.back, cut, partial, found.splits, stream);
    else
      run_weights<P>(call, call.activation<T>(), gradient, call.ahead, cut, partial, found.splits, stream);
  });
  found.partial = data_of<float>(partial);
  return found;
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& gradient, const std::optional<Tensor>& of_mean, const std::optional<Tensor>& of_var, const Tensor& input,
    const Tensor& scale, const Tensor& shift, const Tensor& weight, const Tensor& y, const Tensor& mean, double slope,
    int64_t stride, bool reflect, bool upsample, bool need_input, bool need_weight, const std::optional<Tensor>& packed,
    bool tf32) {
  const OnDeviceOf device(input);
  const Call call(input, scale, shift, weight, slope, stride, reflect, upsample);
  const Gradients gradients(gradient, of_mean, of_var, y, mean, call);
  const auto room = [](const Tensor& like, bool needed) {
    return torch::stable::empty({needed ? like.numel() : 0}, like.scalar_type(), std::nullopt, like.device());
  };
  Tensor dx = room(input, false), dscale = room(scale, need_input), dshift = room(shift, need_input);
  Tensor dweight = room(weight, false), of_channels = floats(input, 0), of_weights = floats(input, 0);
  ChannelParts channels = {};
  WeightParts weights = {};
  if (!need_input && !need_weight) return {dx, dscale, dshift, dweight};
  // The weight's gradient alone takes these too: what it reads comes from there.
  Tensor made = empty_image(call.x, call.x.size(0), call.x.size(1), call.x.size(2), call.x.size(3));
  const Kept kept = kept_of(call.back, call.outputs);
  const int64_t keeps = need_weight || upsample ? call.back.images * kept.pixels_of_image() * call.outputs : 0;
  Tensor keep = torch::stable::empty({keeps}, call.x.scalar_type(), std::nullopt, call.x.device());
  channels = input_gradient(call, gradients, weight, packed, tf32, made, of_channels, keep, device.stream);
  channels.dscale = gradient_of(dscale), channels.dshift = gradient_of(dshift);
  if (need_input)
    dx = laid_out(made, format_of(input));
  else
    channels.channels = 0;
  if (need_weight) {
    dweight = torch::stable::empty({weight.size(0), weight.size(1), weight.size(2), weight.size(3)},
                                   weight.scalar_type(), std::nullopt, weight.device(), std::nullopt, format_of(weight));
    weights = weight_gradient(call, keep, tf32, of_weights, device.stream);
    weights.dweight = gradient_of(dweight);
    for (int d = 0; d < 4; ++d) weights.stride[d] = dweight.stride(d);
    if (!upsample) std::swap(weights.stride[0], weights.stride[1]);
  }
  const int blocks =
      channels.channels + ceil_div(kTaps * weights.ones * weights.others, kSumThreads / slices_of(weights.splits));
  by_dtype(call.x, [&](auto type) {
    using T = typename decltype(type)::type;
    AMINET_LAUNCH((sums_kernel<T>), static_cast<unsigned>(blocks), kSumThreads, 0, device.stream, channels, weights);
  });
  return {dx, dscale, dshift, dweight};
}

}  // namespace aminet::nac
