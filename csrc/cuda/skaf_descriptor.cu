// m = [mean, max] over the channels of u = cat(conv5(x), conv7(x)), its argmax, and their gradients without u's.
//
// Forward reads x and the weights and writes m and argmax; the gradient of x reads dm, argmax and the weights and writes
// dx; that of the weights reads dm, argmax and x. u is never in memory. A tile with its halo and all taps is in shared
// memory once, because each of its pixels takes part in 37 products a channel on average; weights stream past it. The
// gradients' tilings are in their own files; docs/kernels/skaf_descriptor.md draws all three.
//
// Batch 32, bfloat16, H100 (3.0 TB/s, 800 TFLOP/s on tensor cores, 60 on others), argmax equally often in either:
//
//     size      forward GFLOP  MB  floor us   windows from caches MB: here, Triton   dx GFLOP  MB   dW GFLOP  MB
//     24@128             44.7  29        56               48        2466                0.93   29      0.93   29
//     48@64              44.7  14        56               24        1233                0.47   14      0.47   14
//     96@32              44.7   8        56               24         617                0.23    8      0.23    8
//     192@16             44.7  10        56               24         462                0.12   10      0.12    9
//
// Windows from caches: x as tiles with halo once for each group of columns, against each pixel's 49 taps once for each
// of Triton's blocks of columns. Weights come from L2 once a tile of 256 pixels: 175 MB at every size. Float32 has twice
// the bytes; its floor is 112 us in TF32 (400 TFLOP/s), 745 exactly.
#include <tuple>

#include "cuda/skaf_descriptor_calls.h"
#include "cuda/skaf_descriptor_float.cuh"
#include "cuda/skaf_descriptor_input.cuh"
#include "cuda/skaf_descriptor_means.cuh"
#include "cuda/skaf_descriptor_parameters.cuh"
#include "cuda/skaf_descriptor_tiles.cuh"

namespace aminet {
namespace {

using namespace skaf;

// Blocks that keep a large GPU busy: where large tiles are fewer, small ones serve.
#if defined(__CUDACC__) || defined(EMULATED_COUNTED)  // as a GPU runs them
constexpr int64_t kEnoughBlocks = 96;
constexpr int64_t kSplitBlocks = 396;
#else  // so that images small enough for the emulator take all ways
constexpr int64_t kEnoughBlocks = 2;
constexpr int64_t kSplitBlocks = 2;
#endif

int64_t tiles_of(const Image& at, int rows, int width) {
  return at.images * ceil_div(at.height, rows) * ceil_div(at.width, width);
}

int groups_of(const Convs& convs, int each) {
  int most = convs.outputs(0);
  if (convs.count > 1) most = std::max(most, convs.outputs(1));
  return ceil_div(most, each);
}

struct Forward {
  Tensor x, packed, m, argmax;
  Image at;
  Convs convs;
  Biases biases;
  cudaStream_t stream;
  int64_t shared_bytes;

  // Calls launch(pooled), and joins the groups' parts where there are several.
  template <typename T, typename Launch>
  void pooled(int groups, Launch&& launch) {
    Pooled<T> to = {room_of<T>(m), room_of<int>(argmax), nullptr};
    if (groups == 1) return launch(to);
    Tensor parts = room_beside(x, {groups * at.pixels() * 3}, ScalarType::Float);
    to.parts = reinterpret_cast<Pool*>(room_of<float>(parts));
    launch(to);
    AMINET_LAUNCH((join_kernel<T>), dim3(static_cast<unsigned>(ceil_div<int64_t>(at.pixels(), 256))), 256, 0, stream,
                  to, at, convs.total, groups);
  }

  // Whether it did: large tiles want many pixels and much shared memory.
  template <typename T, int WM, int WN, int WK, int MT, int NT, int BLOCKS>
  bool tiled(bool always) {
    using S = Shape<WM, WN, WK, MT, NT>;
    const Sums s = sums_of(convs, kUnit<T>);
    const int64_t bytes = S::bytes(convs, s), tiles = tiles_of(at, S::rows, kTileWidth);
    const int groups = groups_of(convs, S::each);
    if (!always && (bytes > shared_bytes || tiles * groups < kEnoughBlocks)) return false;
    pooled<T>(groups, [&](const Pooled<T>& to) {
      AMINET_LAUNCH((tiles_kernel<T, WM, WN, WK, MT, NT, BLOCKS>), dim3(static_cast<unsigned>(tiles), groups),
                    S::threads, bytes, stream, data_of<T>(x), data_of<T>(packed), biases, to, at, convs, s);
    });
    return true;
  }

  template <typename T>
  void on_tensor_cores() {
    if (groups_of(convs, 24) == 1 ? tiled<T, 4, 1, 1, 4, 6, 3>(false) : tiled<T, 4, 2, 1, 4, 6, 1>(false)) return;
    tiled<T, 4, 1, 2, 1, 2, 2>(true);
  }

  template <int PIXELS, int OUTPUTS>
  bool floats(bool always) {
    using B = FloatBlock<PIXELS, OUTPUTS>;
    const int groups = groups_of(convs, B::each);
    const int64_t tiles = tiles_of(at, B::rows, kFloatWidth);
    if (!always && tiles * groups < kEnoughBlocks) return false;
    const Sums s = sums_of(convs, kUnit<float>);
    pooled<float>(groups, [&](const Pooled<float>& to) {
      AMINET_LAUNCH((float_kernel<PIXELS, OUTPUTS>), dim3(static_cast<unsigned>(tiles), groups), kFloatThreads,
                    B::bytes(convs), stream, data_of<float>(x), data_of<float>(packed), biases, to, at, convs, s.small,
                    s.large);
    });
    return true;
  }
};

std::tuple<Tensor, Tensor> forward(const Tensor& input, const std::vector<Tensor>& weights,
                                   const std::vector<Tensor>& biases, const std::optional<Tensor>& packed,
                                   bool allows_tf32) {
  const Convs convs = convs_of(weights);
  STD_TORCH_CHECK(input.dim() == 4 && input.size(1) == convs.inputs && biases.size() == weights.size(),
                  "skaf_descriptor: x and biases do not fit weights");
  const OnDeviceOf device(input);
  Tensor x = laid_out(input, MemoryFormat::ChannelsLast);
  std::vector<Tensor> kept;
  Biases from = {};
  for (int i = 0; i < convs.count; ++i) {
    kept.push_back(parameter_of(biases[i], biases[i].scalar_type()));
    from.data[i] = kept[i].const_data_ptr();
    from.single[i] = kept[i].scalar_type() == ScalarType::Float;
  }
  const Image at = image_of(x);
  const bool tf32 = allows_tf32 && x.scalar_type() == ScalarType::Float;
  Forward call = {x,
                  packed_of(x, weights, convs, packed, device.stream, tf32),
                  room_beside(x, {at.images, 2, at.height, at.width}, x.scalar_type()),
                  room_beside(x, {at.images, at.height, at.width}, ScalarType::Int),
                  at,
                  convs,
                  from,
                  device.stream,
                  shared_memory_of_a_block()};
  by_dtype(x, [&](auto type) {
    using T = typename decltype(type)::type;
    if (std::is_same_v<T, float> && !tf32) {
      if (!call.floats<8, 3>(false)) call.floats<2, 1>(true);
    } else {
      call.on_tensor_cores<T>();
    }
  });
  return {call.m, call.argmax};
}

Tensor gradient_of_input(const Tensor& gradient, const Tensor& chosen, const std::vector<Tensor>& weights,
                         const std::optional<Tensor>& given) {
  check_saved(gradient, chosen);
  const Convs convs = convs_of(weights);
  const OnDeviceOf device(gradient);
  const Tensor dm = parameter_of(gradient, gradient.scalar_type()), argmax = parameter_of(chosen, ScalarType::Int);
  const Image at = image_of(dm);
  const Tensor packed = packed_of(dm, weights, convs, given, device.stream);
  const int length = convs.taps * convs.padded;
  Tensor mean = room_beside(dm, {length}, ScalarType::Float);
  Tensor dx = empty_image(dm, at.images, convs.inputs, at.height, at.width);
  by_dtype(dm, [&](auto type) {
    using T = typename decltype(type)::type;
    AMINET_LAUNCH((sum_kernel<T>), dim3(ceil_div(length, 32)), 256, 0, device.stream, data_of<T>(packed),
                  room_of<float>(mean), length, convs.total, static_cast<float>(convs.total));
    const dim3 grid(static_cast<unsigned>(tiles_of(at, kInputHeight, kInputWidth)),
                    ceil_div(convs.padded, kInputVectors * kVector));
    AMINET_LAUNCH((input_kernel<T>), grid, kInputThreads, 0, device.stream, data_of<T>(dm), data_of<int>(argmax),
                  data_of<T>(packed), data_of<float>(mean), room_of<T>(dx), at, convs);
  });
  return dx;
}

Tensor backward_input(const Tensor& gradient, const Tensor& chosen, const std::vector<Tensor>& weights) {
  return gradient_of_input(gradient, chosen, weights, std::nullopt);
}

Tensor backward_packed(const Tensor& gradient, const Tensor& chosen, const std::vector<Tensor>& weights,
                       const Tensor& packed) {
  return gradient_of_input(gradient, chosen, weights, packed);
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> backward_parameters(const Tensor& gradient, const Tensor& input,
                                                                         const Tensor& chosen,
                                                                         const std::vector<Tensor>& weights) {
  check_saved(gradient, chosen);
  const Convs convs = convs_of(weights);
  const OnDeviceOf device(input);
  const Tensor x = laid_out(input, MemoryFormat::ChannelsLast), dm = parameter_of(gradient, x.scalar_type());
  const Tensor argmax = parameter_of(chosen, ScalarType::Int);
  const Image at = image_of(x);
  STD_TORCH_CHECK(x.size(1) == convs.inputs && dm.size(0) == at.images && dm.size(2) == at.height &&
                      dm.size(3) == at.width,
                  "skaf_descriptor: x does not fit weights and dm");
  std::vector<Tensor> dweights, dbiases;
  Gradients to = {};
  for (int i = 0; i < convs.count; ++i) {
    const Tensor& w = weights[i];
    dweights.push_back(torch::stable::empty({w.size(0), w.size(1), w.size(2), w.size(3)}, w.scalar_type(),
                                            std::nullopt, w.device(), std::nullopt, format_of(w)));
    dbiases.push_back(room_beside(w, {w.size(0)}, w.scalar_type()));
    to.weights[i] = dweights[i].mutable_data_ptr();
    to.biases[i] = dbiases[i].mutable_data_ptr();
    to.single[i] = w.scalar_type() == ScalarType::Float;
    for (int d = 0; d < 4; ++d) to.stride[i].of[d] = dweights[i].stride(d);
  }
  const Tasks tasks = tasks_of(convs);
  const int run = run_of(convs), keys = convs.total + 1;
  const int runs = static_cast<int>(ceil_div<int64_t>(at.pixels(), run));
  const int sets = ceil_div(tasks.first[2], kBlockTasks), length = correlation_length(convs);
  const int splits = static_cast<int>(std::clamp<int64_t>(kSplitBlocks / sets, 1, runs));
  const bool single = x.scalar_type() == ScalarType::Float;
  const int64_t strips = ceil_div<int64_t>(at.images * at.height * ceil_div(at.width, single ? kSegment : kStrip),
                                           single ? 1 : kStripWarps);
  const int correlations = static_cast<int>(std::min<int64_t>(kSplitBlocks, strips));
  Tensor sorted = room_beside(x, {static_cast<int64_t>(runs) * run * 4}, ScalarType::Int);
  Tensor bounds = room_beside(x, {static_cast<int64_t>(runs) * keys}, ScalarType::Int);
  Tensor parts = room_beside(x, {static_cast<int64_t>(splits) * tasks.first[2] * 32 * kVector}, ScalarType::Float);
  Tensor bias_parts = room_beside(x, {static_cast<int64_t>(splits) * convs.total}, ScalarType::Float);
  Tensor mean_parts = room_beside(x, {static_cast<int64_t>(correlations) * length}, ScalarType::Float);
  Tensor mean = room_beside(x, {length}, ScalarType::Float);
  by_dtype(x, [&](auto type) {
    using T = typename decltype(type)::type;
    Pixel* pixels = reinterpret_cast<Pixel*>(room_of<int>(sorted));
    AMINET_LAUNCH((sort_kernel<T>), dim3(runs), kSorters, keys * (sizeof(int) + run / 32 * sizeof(uint16_t)),
                  device.stream, data_of<T>(dm), data_of<int>(argmax), pixels, room_of<int>(bounds), at, convs.total,
                  run);
    const auto add = convs.inputs % kVector == 0 ? tasks_kernel<T, true> : tasks_kernel<T, false>;
    AMINET_LAUNCH(add, dim3(sets, splits), 32 * kWarps, 2 * (run * sizeof(Pixel) + keys * sizeof(int)), device.stream,
                  data_of<T>(x), pixels, data_of<int>(bounds), room_of<float>(parts), room_of<float>(bias_parts), at,
                  convs, tasks, runs, run);
    if constexpr (std::is_same_v<T, float>)
      AMINET_LAUNCH((correlate_kernel<T>), dim3(correlations, ceil_div(convs.window * convs.padded, 256)), 256, 0,
                    device.stream, data_of<T>(x), data_of<T>(dm), room_of<float>(mean_parts), at, convs);
    else
      AMINET_LAUNCH((strips_kernel<T>), dim3(correlations, ceil_div(convs.padded, kStripChannels)), 32 * kStripWarps, 0,
                    device.stream, data_of<T>(x), data_of<T>(dm), room_of<float>(mean_parts), at, convs);
    AMINET_LAUNCH((sum_kernel<float>), dim3(ceil_div(length, 32)), 256, 0, device.stream, data_of<float>(mean_parts),
                  room_of<float>(mean), length, correlations, static_cast<float>(convs.total));
    AMINET_LAUNCH((finish_kernel<T>), dim3(convs.total, ceil_div(convs.taps * convs.padded, 256)), 256, 0,
                  device.stream, data_of<float>(parts), data_of<float>(bias_parts), data_of<float>(mean), to, convs,
                  tasks, splits);
  });
  return {dweights, dbiases};
}

}  // namespace
}  // namespace aminet

AMINET_CUDA_LIBRARY(m) {
  m.impl("skaf_descriptor_fwd", TORCH_BOX(&aminet::forward));
  m.impl("skaf_descriptor_bwd_input", TORCH_BOX(&aminet::backward_input));
  m.impl("skaf_descriptor_bwd_packed", TORCH_BOX(&aminet::backward_packed));
  m.impl("skaf_descriptor_bwd_parameters", TORCH_BOX(&aminet::backward_parameters));
}
