// What the torch side of norm_act_conv's CUDA kernels is made of: a call's tensors, and how each launch is cut.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "cuda/norm_act_conv_forward.cuh"
#include "cuda/norm_act_conv_input.cuh"
#include "cuda/norm_act_conv_pack.cuh"
#include "cuda/norm_act_conv_resident.cuh"
#include "cuda/norm_act_conv_sums.cuh"
#include "cuda/norm_act_conv_sums2x2.cuh"
#include "cuda/tensors.h"

namespace aminet::nac {

// Blocks that keep a large GPU busy: where large tiles are fewer, small ones serve. And those of the weight's gradient.
#if defined(__CUDACC__) || defined(EMULATED_COUNTED)  // as a GPU runs them
constexpr int64_t kEnoughBlocks = 90;
constexpr int64_t kSplitBlocks = 264;
#else  // so that images small enough for the emulator take all ways
constexpr int64_t kEnoughBlocks = 2;
constexpr int64_t kSplitBlocks = 20;
#endif
#if defined(__CUDACC__) || !defined(EMULATED_COUNTED)
inline int64_t multiprocessors() { return multiprocessors_of_device(); }
#else
inline int64_t multiprocessors() { return 132; }
#endif
constexpr int64_t kTwoBlocks = 112 * 1024;        // bytes of shared memory that leave room for another block
constexpr int64_t kMostPartial = 20 * 1024 * 1024;  // bytes of all splits' sums for the weight

inline int64_t shared_bytes() { return std::min<int64_t>(shared_memory_of_a_block(), kTwoBlocks); }

inline Tensor floats(const Tensor& beside, int64_t count) {
  return torch::stable::empty({count}, ScalarType::Float, std::nullopt, beside.device());
}

inline bool on_vectors(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % kUnitBytes == 0; }

// channels_last, and where vectors may begin.
inline Tensor image_of(const Tensor& t) {
  const Tensor x = laid_out(t, MemoryFormat::ChannelsLast);
  if (on_vectors(x)) return x;
  Tensor copy = empty_image(x, x.size(0), x.size(1), x.size(2), x.size(3));
  torch::stable::copy_(copy, x);
  return copy;
}

// float32 [C] where vectors may begin.
inline Tensor vector_of(const Tensor& t) {
  const Tensor v = parameter_of(t, ScalarType::Float);
  if (on_vectors(v)) return v;
  Tensor copy = floats(v, v.numel());
  torch::stable::copy_(copy, v);
  return copy;
}

template <typename P_>
struct Product {
  using type = P_;
};

// function(Product<P>{}) for what x is multiplied as.
template <typename Function>
void by_product(const Tensor& x, bool tf32, Function&& function) {
  by_dtype(x, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (!std::is_same_v<T, float>)
      function(Product<T>{});
    else if (tf32)
      function(Product<Tf32>{});
    else
      function(Product<Exact>{});
  });
}

// The largest number of octets of a chunk, of which `depth` has a whole number, whose window fits; 0: none does.
template <typename S>
Cut cut_of(const Geometry& g, int depth, int made, int64_t limit, bool chunked) {
  const int all = depth / kOctet;
  int taps = 0;
  for (int h = 0; h < g.rows.phases; ++h)
    for (int w = 0; w < g.columns.phases; ++w) taps = std::max(taps, g.rows.taps_of(h) * g.columns.taps_of(w));
  Cut cut = {depth, made, 0, 0, 0};
  for (int octets = all; octets > 0 && (chunked || octets == all); --octets) {
    if (all % octets) continue;
    cut.octets = octets, cut.chunks = all / octets;
    cut.entries = ceil_div(taps * octets, S::stage) * S::stage;
    const Window w = window_of(g, S::height, S::width, octets, kOctetUnits<typename S::T>, S::threads);
    if (windows_bytes<S>(w, cut) <= limit) return cut;
  }
  return {depth, made, 0, 0, 0};
}

// Weights as products read them, from an element on.
struct Packed {
  Tensor held;
  int64_t first;
};

// Blocks for the phases of a tile: one, but where tiles are small and too few for all of a GPU.
template <typename S>
unsigned phase_blocks(const Geometry& g, const Cut& cut) {
  const int64_t blocks = tiles_of(g, S::height, S::width) * ceil_div(cut.made, S::columns);
  return S::WM * S::MT < 16 && blocks < 2 * kEnoughBlocks ? static_cast<unsigned>(g.rows.phases * g.columns.phases) : 1;
}

// Whether it was: where a block's weights fit into its share of shared memory and serve it for more than one tile.
template <typename P, typename Choice, typename Source, typename Finish>
bool run_resident(const Source& source, const Packed& weights, const Finish& finish, const Geometry& g, const Window& w,
                  const Cut& cut, cudaStream_t stream) {
  using S = typename Choice::S;
  const int64_t tiles = tiles_of(g, S::height, S::width), groups = ceil_div(cut.made, S::columns);
  const int each = static_cast<int>(ceil_div(tiles * groups, multiprocessors() * Choice::BLOCKS));
  const int64_t bytes = resident_bytes<S>(w, cut);
  if (g.rows.phases * g.columns.phases > 1 || each < 2 || bytes > shared_bytes()) return false;
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(tiles, each)), static_cast<unsigned>(groups));
  AMINET_LAUNCH((resident_kernel<P, S, Choice::BLOCKS, Source, Finish>), grid, S::threads, bytes, stream, source,
                data_of<Data<P>>(weights.held) + weights.first, finish, g, w, cut, static_cast<int>(tiles), each);
  return true;
}

template <typename P, typename Choice, typename Source, typename Finish>
void run_windows(const Source& source, const Packed& weights, const Finish& finish, const Geometry& g, const Cut& cut,
                 cudaStream_t stream) {
  using S = typename Choice::S;
  const Window w = window_of(g, S::height, S::width, cut.octets, kOctetUnits<Data<P>>, S::threads, source.map(g));
  if constexpr (!Choice::CHUNKED && std::is_same_v<Source, Activation<Data<P>>>)
    if (run_resident<P, Choice>(source, weights, finish, g, w, cut, stream)) return;
  const dim3 grid(static_cast<unsigned>(tiles_of(g, S::height, S::width)), ceil_div(cut.made, S::columns),
                  phase_blocks<S>(g, cut));
  AMINET_LAUNCH((windows_kernel<P, S, Choice::BLOCKS, Choice::CHUNKED, Source, Finish>), grid, S::threads,
                windows_bytes<S>(w, cut), stream, source, data_of<Data<P>>(weights.held) + weights.first, finish, g, w, cut);
}

template <typename S_, int BLOCKS_, bool CHUNKED_>
struct Choice {
  using S = S_;
  static constexpr int BLOCKS = BLOCKS_;
  static constexpr bool CHUNKED = CHUNKED_;
};

// function(Choice, cut) for the shape of a block that suits the call: of 24, 48 or 64 channels, whichever leaves least
// over, and of 256 cells if there are blocks of these for all of a GPU, else of 64. Floats have the small ones.
template <typename P, bool GRADIENT, typename Function>
void by_shape(const Geometry& g, int depth, int made, int64_t limit, Function&& function) {
  const auto attempt = [&](auto choice, bool always) {
    using S = typename decltype(choice)::S;
    const Cut cut = cut_of<S>(g, depth, made, limit, decltype(choice)::CHUNKED);
    const int64_t blocks = tiles_of(g, S::height, S::width) * ceil_div(made, S::columns);
    if (cut.octets == 0 || (!always && blocks < kEnoughBlocks)) return false;
    function(choice, cut);
    return true;
  };
  const int over24 = ceil_div(made, 24) * 24, over48 = ceil_div(made, 48) * 48, over64 = ceil_div(made, 64) * 64;
  bool done = false;
  if constexpr (sizeof(Data<P>) == 2) {
    if (over64 <= over48 && over64 <= over24)
      done = attempt(Choice<Shape<P, 4, 1, 4, 8>, 2, false>{}, false);
    else if (over48 <= over24)
      done = attempt(Choice<Shape<P, 4, 1, 4, 6>, 2, false>{}, false);
    else
      done = attempt(Choice<Shape<P, 4, 1, 4, 3>, GRADIENT ? 3 : 4, false>{}, false);
    if (!done && made > 24) done = attempt(Choice<Shape<P, 4, 1, 4, 8>, 2, true>{}, false);
  }
  constexpr int blocks = sizeof(Data<P>) == 2 ? 3 : 2;
  if (!done && made <= 24) done = attempt(Choice<Shape<P, 4, 1, 1, 3>, blocks, true>{}, true);
  if (!done) done = attempt(Choice<Shape<P, 2, 2, 2, 4>, blocks, true>{}, true);
  STD_TORCH_CHECK(done, "norm_act_conv: no kernel's window fits into this GPU's shared memory");
}

// What both directions have of a call.
struct Call {
  Tensor x, scale, shift;
  int inputs, outputs;
  float slope;
  int64_t stride;
  bool upsample;
  Geometry ahead, back;

  Call(const Tensor& input, const Tensor& by, const Tensor& add, const Tensor& weight, double slope_, int64_t stride_,
       bool reflect, bool upsample_)
      : x(image_of(input)),
        scale(vector_of(by)),
        shift(vector_of(add)),
        inputs(static_cast<int>(input.size(1))),
        outputs(static_cast<int>(weight.size(0))),
        slope(static_cast<float>(slope_)),
        stride(stride_),
        upsample(upsample_) {
    STD_TORCH_CHECK(input.dim() == 4 && weight.dim() == 4 && weight.size(1) == inputs && weight.size(2) == 3 &&
                        weight.size(3) == 3 && by.numel() == inputs && add.numel() == inputs,
                    "norm_act_conv: x, scale, shift and weight do not fit each other");
    STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float || weight.scalar_type() == x.scalar_type(),
                    "norm_act_conv: weight must be of x's dtype or float32");
    STD_TORCH_CHECK(static_cast<int64_t>(inputs) * outputs < 1 << 23, "norm_act_conv: too many weights");
    STD_TORCH_CHECK(inputs % kOctet == 0 && outputs % kOctet == 0 && x.size(2) > 1 && x.size(3) > 1 &&
                        (stride == 1 || (stride == 2 && !upsample)),
                    "norm_act_conv: the CUDA kernels take channels by the eight, two rows and columns or more, and no "
                    "stride after nearest x2");
    const int height = static_cast<int>(x.size(2)), width = static_cast<int>(x.size(3)), s = static_cast<int>(stride);
    ahead = {forward_axis(height, s, reflect, upsample), forward_axis(width, s, reflect, upsample), x.size(0)};
    back = {gradient_axis(height, s, reflect, upsample), gradient_axis(width, s, reflect, upsample), x.size(0)};
  }

  template <typename T>
  Activation<T> activation() const {
    return {data_of<T>(x), data_of<float>(scale), data_of<float>(shift), slope, inputs};
  }

  // Of `norm_act_conv_prepack`'s if that has them: the forward's taps, the backward's, and of nearest x2 nine more.
  Packed weights(const Tensor& weight, const std::optional<Tensor>& packed, bool backward, cudaStream_t stream) const {
    const Taps taps = backward ? (stride == 2 ? Taps::kBackwardStrided : Taps::kBackward)
                               : (upsample ? Taps::kForwardUp : Taps::kForward);
    const int64_t each = static_cast<int64_t>(outputs) * inputs;
    const int64_t ahead_taps = upsample ? 16 : 9, all = upsample ? 41 : 18;
    if (packed && packed->scalar_type() == x.scalar_type() && packed->is_contiguous() && on_vectors(*packed) &&
        (packed->numel() == all * each || (!backward && packed->numel() == ahead_taps * each)))
      return {*packed, backward ? (all - 9) * each : 0};
    Tensor found = torch::stable::empty({taps_of(taps) * each}, x.scalar_type(), std::nullopt, x.device());
    const Parameter from = {weight.const_data_ptr(), weight.scalar_type() == ScalarType::Float};
    const WeightStrides strides = {{weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)}};
    by_dtype(x, [&](auto type) {
      using T = typename decltype(type)::type;
      AMINET_LAUNCH((pack_kernel<T>), dim3(static_cast<unsigned>(ceil_div<int64_t>(each, 256)), taps_of(taps)), 256, 0,
                    stream, from, strides, room_of<T>(found), taps, outputs, inputs);
    });
    return {found, 0};
  }
};

}  // namespace aminet::nac
