// q, k, v = dw3x3(x W^T);  y = v M^T;  M = projection blockdiag(softmax(temperature * q k^T / (|q| |k|))) an image.
//
// Forward, with T the bytes of x: u = x W^T (reads T, writes 3T, which is `kept`); shares of q k^T and the norms (2T);
// their sum, the softmax and M; y = v M^T (2T). Backward: shares of v dy^T (2T); softmax, norms and projection;
// [dq | dk] = [q | k] mix (4T) and dv = dy M (2T); dx through the transposed 3x3 (4T); shares of both convolutions'
// gradients (7T); all sums of shares. The 3x3 is applied where tiles are loaded: nothing after it reaches memory. So 8T
// and 19T, as in the Triton twin.
//
// Launches: 4 forward, 7 backward. The twin has 6 and 13: it lays the taps out anew, adds shares by torch and makes M
// again in a launch of its own; and it converts, W where parameters are float beside 16-bit data, four sums where
// parameters are of 16 bits. Here parameters are read, and their gradients written, as they are.
//
// Tiles of 16 x 8 pixels: a row is the length of a product on tensor cores, eight rows are eight warps'; the halo makes
// it 1.4 times the bytes out of L2, not out of memory. Channels are cut by 24 or 48, as the network's heads are 24 wide.
//
// Floors at batch 32 in bfloat16 on an H100 (3.0 TB/s, 800 TFLOP/s), forward | backward, the twin's own:
//
//   c@side   T in MB   MB moved    GFLOP        us
//   24@128   25.2      201 | 478   3.7 | 10.0   67 | 159
//   48@64    12.6      101 | 239   3.1 | 7.4    34 | 80
//   96@32    6.3       50 | 120    2.7 | 6.1    17 | 40
//   192@16   3.1       25 | 60     2.6 | 5.5    8 | 20
//
// Schemas: aminet_fast/ops/channel_attention.py. gram, attn and kept are the twin's, so either may serve either pass.
#include "cuda/channel_attention_passes.cuh"

namespace aminet {
namespace {

using namespace channel_attention;

// What the public function says better, for those who call the operators without it.
void check(const Tensor& x, const Tensor& qkv, const Tensor& depthwise, const std::optional<Tensor>& temperature,
           const Tensor& projection, int64_t heads) {
  STD_TORCH_CHECK(x.dim() == 4 && x.numel() > 0, "channel_attention: x must be [N, C, H, W], every size at least 1");
  const int64_t c = x.size(1);
  STD_TORCH_CHECK(heads > 0 && c % heads == 0 && c / heads <= kMostInHead,
                  "channel_attention: heads must divide the channels, into at most 96 each");
  const int64_t tiles = x.size(0) * ceil_div<int64_t>(x.size(2), kHigh) * ceil_div<int64_t>(x.size(3), kWide);
  STD_TORCH_CHECK(tiles * 3 * c < int64_t(1) << 31, "channel_attention: x has too many tiles for a grid");
  STD_TORCH_CHECK(qkv.numel() == 3 * c * c && depthwise.numel() == 27 * c && projection.numel() == c * c &&
                      (!temperature || temperature->numel() == heads),
                  "channel_attention: the weights do not fit x");
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& input, const Tensor& qkv, const Tensor& depthwise,
                                                   const std::optional<Tensor>& temperature, const Tensor& projection,
                                                   int64_t heads, bool keep,
                                                   const std::optional<Tensor>& /* packed: Triton's, for cuBLAS */) {
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
  STD_TORCH_CHECK(dy.numel() == x.numel() && gram.numel() == n * c * (c / heads + 2) &&
                      attn.numel() == n * c * (c / heads) && (kept.numel() == 0 || kept.numel() == 3 * x.numel()) && kept.scalar_type() == x.scalar_type(),
                  "channel_attention: dy must have the sizes of x; gram, attn and kept must be the forward's");
  const Tensor sums = parameter_of(gram, ScalarType::Float), weights = parameter_of(attn, ScalarType::Float);
  const auto like = [](const Tensor& t, bool needed) {
    std::vector<int64_t> size{0};
    if (needed) size.assign(t.sizes().begin(), t.sizes().end());
    return torch::stable::new_empty(t, size);
  };
  Tensor dx = torch::stable::new_empty(x, {0}), dqkv = like(qkv, need_qkv),
         ddepthwise = like(depthwise, need_depthwise),
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
