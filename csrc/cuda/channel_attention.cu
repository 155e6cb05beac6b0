// q, k, v = dw3x3(x W^T);  y = v M^T;  M = projection blockdiag(softmax(temperature * q k^T / (|q| |k|))) an image.
//
// aminet_fast_cuda::channel_attention_fwd and _bwd; schemas in aminet_fast/ops/channel_attention.py.
#include <optional>
#include <tuple>
#include <vector>

#include "cuda/tensors.h"

#include "cuda/channel_attention_project.cuh"
#include "cuda/channel_attention_small.cuh"
#include "cuda/channel_attention_sums.cuh"

namespace aminet {
namespace {

using namespace channel_attention;

constexpr int64_t kBlocks = 512;  // of a launch: sums over pixels are cut into parts until there are so many
constexpr int64_t kMostSplits = 64;  // of an image, whose sums one block adds

// What the public function says better, for those who call the operators without it.
void check(const Tensor& x, const Tensor& qkv, const Tensor& depthwise, const std::optional<Tensor>& temperature,
           const Tensor& projection, int64_t heads) {
  STD_TORCH_CHECK(x.dim() == 4 && x.numel() > 0, "channel_attention: x must be [N, C, H, W], every size at least 1");
  const int64_t c = x.size(1);
  STD_TORCH_CHECK(heads > 0 && c % heads == 0 && c / heads <= kMostInHead,
                  "channel_attention: heads must divide the channels, into at most 96 each");
  STD_TORCH_CHECK(qkv.numel() == 3 * c * c && depthwise.numel() == 27 * c && projection.numel() == c * c &&
                      (!temperature || temperature->numel() == heads),
                  "channel_attention: the weights do not fit x");
}

// Keeps a parameter without gaps while kernels read it.
template <typename T>
struct Held {
  Tensor tensor;
  Parameter<T> parameter;
  Held(const Tensor& t, const Tensor& x)
      : tensor(parameter_of(t, t.scalar_type() == x.scalar_type() ? t.scalar_type() : ScalarType::Float)),
        parameter{tensor.const_data_ptr(), tensor.scalar_type() == ScalarType::Float} {}
};

bool on_vectors(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16) return false;
  return true;
}

// function(cut): the widest cut of channels that `in` and `outs` are multiples of; that of any where `vectors` is false.
// float takes 24 of the input at a time, which leaves room for two blocks on GPUs with 100 KiB of shared memory.
template <typename T, typename Function>
void by_cut(bool vectors, int in, int outs, Function&& function) {
  constexpr int wide = sizeof(T) == 2 ? 48 : 24;
  if (!vectors || in % 24 || outs % 24) return function(Cut<T, 32, 32, false>{});
  if (in % wide == 0 && outs % 48 == 0) return function(Cut<T, wide, 48, true>{});
  return function(Cut<T, 24, 24, true>{});
}

template <typename T>
class Passes {
 public:
  Passes(const Tensor& x, const Tensor& qkv, const Tensor& depthwise, const std::optional<Tensor>& temperature,
         const Tensor& projection, int64_t heads, cudaStream_t stream)
      : x_(x),
        images_(int(x.size(0))),
        channels_(int(x.size(1))),
        heads_(int(heads)),
        head_(channels_ / heads_),
        size_{int(x.size(2)), int(x.size(3))},
        qkv_(qkv, x),
        depthwise_(depthwise, x),
        temperature_(temperature ? *temperature : qkv, x),
        projection_(projection, x),
        normalised_(temperature.has_value()),
        stream_(stream) {}

  Tensor floats(std::vector<int64_t> size) const { return torch::stable::new_empty(x_, size, ScalarType::Float); }
  Tensor like_x(std::vector<int64_t> size) const { return torch::stable::new_empty(x_, size); }

  // The 1x1: u [N, 3C, H, W].
  Tensor widen() const {
    Tensor u = empty_image(x_, images_, 3 * channels_, size_.height, size_.width);
    Projection<T> g = projection(data_of<T>(x_), channels_, room_of<T>(u), 3 * channels_, channels_, 3 * channels_);
    g.matrix = qkv_.parameter, g.m_in = 1, g.m_out = channels_;
    project_all(g);
    return u;
  }

  // Shares of q k^T and the norms: [N, splits, C * D + 2C].
  Tensor gram_parts(const Tensor& u) const {
    const int c = channels_;
    const bool vectors = head_ == 24 && on_vectors({u.const_data_ptr()});
    const int blocks = heads_ * (vectors ? 1 : ceil_div(head_, 32) * ceil_div(head_, 32));
    const int splits = int(std::min<int64_t>({size_.tiles(), kMostSplits, ceil_div<int64_t>(kBlocks, int64_t(images_) * blocks)}));
    Tensor parts = floats({images_, splits, int64_t(c) * (head_ + 2)});
    Sum<T> g{};
    g.a = data_of<T>(u), g.b = g.a + c, g.a_stride = 3 * c;
    g.taps = depthwise_.parameter, g.taps_b = g.taps.from(9 * int64_t(c));
    g.out = room_of<float>(parts), g.size = size_;
    g.images = 1, g.groups = images_, g.splits = splits, g.heads = heads_, g.ins = g.outs = head_;
    vectors ? sum<Cut<T, 24, 24, true>, Of::kGram>(g, stream_) : sum<Cut<T, 32, 32, false>, Of::kGram>(g, stream_);
    return parts;
  }

  // Fills gram and attn from the shares; M [N, C out, C in].
  Tensor softmax(const Tensor& parts, Tensor& gram, Tensor& attn) const {
    Tensor folded = like_x({images_, channels_, channels_});
    Small<T> g = small(gram, attn, folded);
    g.parts = data_of<float>(parts), g.splits = int(parts.size(1));
    const int blocks = images_ * heads_ * ceil_div(channels_, kFoldedRows);
    AMINET_LAUNCH((softmax_kernel<T>), dim3(blocks), dim3(kThreads), sizeof(float) * head_ * (head_ + 2), stream_, g);
    return folded;
  }

  // y = conv(v) M^T
  void attend(const Tensor& u, const Tensor& folded, Tensor& y) const {
    const int c = channels_;
    Projection<T> g = projection(data_of<T>(u) + 2 * c, 3 * c, room_of<T>(y), c, c, c);
    g.conv = true, g.taps = depthwise_.parameter.from(18 * int64_t(c));
    g.matrix = own(folded), g.m_image = int64_t(c) * c, g.m_in = 1, g.m_out = c;
    project_all(g);
  }

  // Shares of conv(v) dy^T: [N, splits, C in, C out].
  Tensor folded_parts(const Tensor& u, const Tensor& dy) const {
    const int c = channels_;
    Tensor parts;
    Sum<T> g{};
    g.a = data_of<T>(u) + 2 * c, g.a_stride = 3 * c, g.taps = depthwise_.parameter.from(18 * int64_t(c));
    g.b = data_of<T>(dy), g.size = size_;
    g.images = 1, g.groups = images_, g.heads = 1, g.ins = g.outs = c;
    by_cut<T>(on_vectors({g.a, g.b}), c, c, [&](auto cut) {
      g.splits = splits<decltype(cut)>(g, size_.tiles(), kMostSplits);
      parts = floats({images_, g.splits, c, c});
      g.out = room_of<float>(parts);
      sum<decltype(cut), Of::kOuter>(g, stream_);
    });
    return parts;
  }

  struct Gradients {
    Tensor folded, mix, dprojection, dtemperature;
  };
  Gradients dsoftmax(const Tensor& parts, const Tensor& gram, const Tensor& attn) const {
    const int64_t n = images_, c = channels_, d = head_;
    Gradients to{like_x({n, c, c}), like_x({n, heads_, 2, d, 2, d}), floats({n, c, c}), floats({n, heads_})};
    Tensor room = floats({n, c, c}), sums = gram, weights = attn;
    Small<T> g = small(sums, weights, to.folded);
    g.parts = data_of<float>(parts), g.splits = int(parts.size(1)), g.dfolded = room_of<float>(room);
    g.mix = room_of<T>(to.mix);
    g.dprojection = room_of<float>(to.dprojection), g.dtemperature = room_of<float>(to.dtemperature);
    AMINET_LAUNCH((dsoftmax_kernel<T>), dim3(unsigned(images_ * heads_)), dim3(kThreads),
                  sizeof(float) * (2 * d * d + 3 * d), stream_, g);
    return to;
  }

  // The gradients of q, k and v after the 3x3: [N, 3C, H, W].
  Tensor dconv(const Tensor& u, const Tensor& dy, const Gradients& gradients) const {
    const int c = channels_, d = head_;
    Tensor out = empty_image(x_, images_, 3 * c, size_.height, size_.width);
    Projection<T> g = projection(data_of<T>(u), 3 * c, room_of<T>(out), 3 * c, d, d);
    g.conv = true, g.taps = depthwise_.parameter, g.matrix = own(gradients.mix);
    g.m_image = int64_t(4) * c * d, g.m_group = int64_t(4) * d * d, g.m_in = 2 * d, g.m_out = 1;
    g.groups = heads_, g.halves = 2, g.half = c;
    d == 24 && on_vectors({g.a, g.out}) ? project<Cut<T, 24, 48, true>>(g, stream_)
                                        : project<Cut<T, 32, 32, false>>(g, stream_);
    g = projection(data_of<T>(dy), c, room_of<T>(out) + 2 * c, 3 * c, c, c);
    g.matrix = own(gradients.folded);
    g.m_image = int64_t(c) * c, g.m_in = c, g.m_out = 1;
    project_all(g);
    return out;
  }

  void dinput(const Tensor& d, Tensor& dx) const {
    const int c = channels_;
    Projection<T> g = projection(data_of<T>(d), 3 * c, room_of<T>(dx), c, 3 * c, c);
    g.conv = g.flipped = true, g.taps = depthwise_.parameter;
    g.matrix = qkv_.parameter, g.m_in = c, g.m_out = 1;
    project_all(g);
  }

  // Shares of the gradients of the 1x1's weight [splits, 3C, C], and of the 3x3's [splits, 3C, 9].
  std::tuple<Tensor, Tensor> weight_parts(const Tensor& d, const Tensor& u) const {
    const int c = channels_;
    Tensor products, taps;
    Sum<T> g{};
    g.a = data_of<T>(d), g.a_stride = 3 * c, g.taps = depthwise_.parameter, g.b = data_of<T>(x_);
    g.centre = data_of<T>(u), g.size = size_;
    g.images = images_, g.groups = 1, g.heads = 1, g.ins = 3 * c, g.outs = c;
    by_cut<T>(on_vectors({g.a, g.b, g.centre}), 3 * c, c, [&](auto cut) {
      g.splits = splits<decltype(cut)>(g, int64_t(images_) * size_.tiles(), kBlocks);
      products = floats({g.splits, 3 * c, c}), taps = floats({g.splits, 3 * c, 9});
      g.out = room_of<float>(products), g.dtaps = room_of<float>(taps);
      sum<decltype(cut), Of::kWeights>(g, stream_);
    });
    return {products, taps};
  }

  // like's = the sum of parts over their first dimension, for each pair; in one launch.
  void total(const std::vector<std::tuple<const Tensor*, Tensor*>>& pairs) const {
    Totals g{};
    int64_t most = 0;
    for (size_t i = 0; i < pairs.size(); ++i) {
      const auto& [parts, out] = pairs[i];
      g.of[i] = {data_of<float>(*parts), int(parts->size(0)), out->numel(), out->mutable_data_ptr(),
                 out->scalar_type() == ScalarType::Float};
      most = std::max(most, out->numel());
    }
    AMINET_LAUNCH((total_kernel<T>), dim3(unsigned(ceil_div<int64_t>(most, kTotalled)), unsigned(pairs.size())),
                  dim3(kThreads), 0, stream_, g);
  }

 private:
  Projection<T> projection(const T* a, int a_stride, T* out, int out_stride, int in, int outs) const {
    Projection<T> g{};
    g.a = a, g.a_stride = a_stride, g.out = out, g.out_stride = out_stride, g.in = in, g.outs = outs;
    g.size = size_, g.images = images_, g.groups = g.halves = 1;
    return g;
  }
  static Parameter<T> own(const Tensor& matrix) { return {matrix.const_data_ptr(), std::is_same_v<T, float>}; }
  void project_all(const Projection<T>& g) const {
    by_cut<T>(on_vectors({g.a, g.out}), g.in, g.outs, [&](auto cut) { project<decltype(cut)>(g, stream_); });
  }
  Small<T> small(Tensor& gram, Tensor& attn, Tensor& folded) const {
    Small<T> g{};
    g.gram = room_of<float>(gram), g.attn = room_of<float>(attn), g.folded = room_of<T>(folded);
    g.temperature = temperature_.parameter, g.projection = projection_.parameter;
    g.channels = channels_, g.heads = heads_, g.normalised = normalised_;
    g.scale = 1 / std::sqrt(float(size_.pixels()));
    return g;
  }
  template <typename Cut>
  int splits(const Sum<T>& g, int64_t tiles, int64_t most) const {
    const int64_t blocks = int64_t(ceil_div(g.ins, Cut::kIn)) * ceil_div(g.outs, Cut::kOut) * g.groups;
    return int(std::min({tiles, most, ceil_div(kBlocks, blocks)}));
  }

  Tensor x_;
  int images_, channels_, heads_, head_;
  Size size_;
  Held<T> qkv_, depthwise_, temperature_, projection_;
  bool normalised_;
  cudaStream_t stream_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& input, const Tensor& qkv, const Tensor& depthwise,
                                                   const std::optional<Tensor>& temperature, const Tensor& projection,
                                                   int64_t heads, bool keep) {
  check(input, qkv, depthwise, temperature, projection, heads);
  const OnDeviceOf device(input);
  const Tensor x = laid_out(input, MemoryFormat::ChannelsLast);
  const int64_t n = x.size(0), c = x.size(1);
  Tensor y = empty_image(x, n, c, x.size(2), x.size(3)), kept = torch::stable::new_empty(x, {0}), gram, attn;
  by_dtype(x, [&](auto type) {
    using T = typename decltype(type)::type;
    const Passes<T> passes(x, qkv, depthwise, temperature, projection, heads, device.stream);
    const Tensor u = passes.widen(), parts = passes.gram_parts(u);
    gram = passes.floats({n, c * (c / heads + 2)}), attn = passes.floats({n, c, c / heads});
    passes.attend(u, passes.softmax(parts, gram, attn), y);
    if (keep) kept = u;
  });
  return {laid_out(y, format_of(input)), gram, attn, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& input, const Tensor& qkv, const Tensor& depthwise,
    const std::optional<Tensor>& temperature, const Tensor& projection, const Tensor& gram, const Tensor& attn,
    const Tensor& kept, int64_t heads, bool need_x, bool need_qkv, bool need_depthwise) {
  check(input, qkv, depthwise, temperature, projection, heads);
  const OnDeviceOf device(input);
  const Tensor x = laid_out(input, MemoryFormat::ChannelsLast);
  const Tensor dy = laid_out(converted(grad, x.scalar_type()), MemoryFormat::ChannelsLast);
  const int64_t n = x.size(0), c = x.size(1);
  STD_TORCH_CHECK(dy.numel() == x.numel() && gram.numel() == n * c * (c / heads + 2) && attn.numel() == n * c * (c / heads) &&
                      (kept.numel() == 0 || kept.numel() == 3 * x.numel()) && kept.scalar_type() == x.scalar_type(),
                  "channel_attention: dy must have the sizes of x; gram, attn and kept must be the forward's");
  const Tensor sums = parameter_of(gram, ScalarType::Float), weights = parameter_of(attn, ScalarType::Float);
  const auto like = [](const Tensor& t, bool needed) {
    std::vector<int64_t> size{0};
    if (needed) size.assign(t.sizes().begin(), t.sizes().end());
    return torch::stable::new_empty(t, size);
  };
  Tensor dx = torch::stable::new_empty(x, {0}), dqkv = like(qkv, need_qkv), ddepthwise = like(depthwise, need_depthwise),
         dtemperature = like(temperature ? *temperature : sums, temperature.has_value()),
         dprojection = like(projection, true);
  by_dtype(x, [&](auto type) {
    using T = typename decltype(type)::type;
    const Passes<T> passes(x, qkv, depthwise, temperature, projection, heads, device.stream);
    const Tensor u = kept.numel() > 0 ? laid_out(kept, MemoryFormat::ChannelsLast) : passes.widen();
    const auto gradients = passes.dsoftmax(passes.folded_parts(u, dy), sums, weights);
    std::vector<std::tuple<const Tensor*, Tensor*>> totals{{&gradients.dprojection, &dprojection}};
    if (temperature) totals.push_back({&gradients.dtemperature, &dtemperature});
    Tensor products, taps;
    if (need_x || need_qkv || need_depthwise) {
      const Tensor d = passes.dconv(u, dy, gradients);
      if (need_x) {
        Tensor to = empty_image(x, n, c, x.size(2), x.size(3));
        passes.dinput(d, to);
        dx = laid_out(to, format_of(input));
      }
      if (need_qkv || need_depthwise) {
        std::tie(products, taps) = passes.weight_parts(d, u);
        if (need_qkv) totals.push_back({&products, &dqkv});
        if (need_depthwise) totals.push_back({&taps, &ddepthwise});
      }
    }
    passes.total(totals);
  });
  return {dx, dqkv, ddepthwise, dtemperature, dprojection};
}

}  // namespace
}  // namespace aminet

AMINET_CUDA_LIBRARY(m) {
  m.impl("channel_attention_fwd", TORCH_BOX(&aminet::forward));
  m.impl("channel_attention_bwd", TORCH_BOX(&aminet::backward));
}
