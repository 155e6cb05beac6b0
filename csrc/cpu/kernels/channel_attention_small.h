// channel_attention's matrices of channels, between the passes over the pixels: softmax, its backward, normalisation.
// The large ones [C][C] are kept transposed, [in][out], so that vectors run along the outputs (Cp of them, padded).
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "channel_attention_products.h"
#include "cpu/channel_attention.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// torch.nn.functional.normalize's
constexpr double kSmallestNorm = 1e-12;

template <typename Acc>
class Small {
 public:
  Small(const ChannelAttentionShape& shape, const ChannelAttentionWeights& weights)
      : s(shape), w(weights), projection(C * Cp), inverse(2 * C), passes(2 * C), z(d) {
    const Acc* from = static_cast<const Acc*>(w.projection);
    for (int64_t o = 0; o < C; ++o)
      for (int64_t i = 0; i < C; ++i) projection[i * Cp + o] = from[o * C + i];
  }

  // sums: q k^T [C][head], then the squared norms of q's channels, then of k's.
  void softmax(const Acc* sums, Acc* attn) {
    norms(sums);
    for (int64_t i = 0; i < C; ++i, sums += d, attn += d) {
      const int64_t head = i / d;
      const double scale = temperature(head) * inverse[i];
      const double* of_k = inverse.data() + C + head * d;
      double largest = -INFINITY, total = 0;
      for (int64_t j = 0; j < d; ++j) {
        z[j] = sums[j] * scale * of_k[j];
        largest = std::max(largest, z[j]);
      }
      for (int64_t j = 0; j < d; ++j) total += z[j] = std::exp(z[j] - largest);
      for (int64_t j = 0; j < d; ++j) attn[j] = static_cast<Acc>(z[j] / total);
    }
  }

  // fused [C in][Cp out] = (projection * blockdiag(attn))^T
  void fuse(const Acc* attn, Acc* fused) const {
    for (int64_t c = 0; c < C; c += d)
      multiply<Acc>(d, d, {attn + c * d, 1, d}, projection.data() + c * Cp, Cp, vectors, rows(fused + c * Cp));
  }

  // Through fuse: dattn [C][head] and dprojection [C in][Cp out].
  void fuse_backward(const Acc* dfused, const Acc* attn, Acc* dattn, Acc* dprojection) const {
    std::fill_n(dattn, C * d, Acc(0));
    for (int64_t c = 0; c < C; c += d) {
      add_dots(d, d, projection.data() + c * Cp, Cp, dfused + c * Cp, Cp, vectors, dattn + c * d, d);
      multiply<Acc>(d, d, {attn + c * d, d, 1}, dfused + c * Cp, Cp, vectors, rows(dprojection + c * Cp));
    }
  }

  // From dattn: dq = mix_q k + scales[0] * q, dk = mix_k q + scales[1] * k.
  void softmax_backward(const Acc* sums, const Acc* attn, const Acc* dattn, Acc* mix_q, Acc* mix_k, Acc* scales,
                        Acc* dtemperature) {
    norms(sums);
    std::vector<double> through(2 * C), to_temperature(s.heads);
    for (int64_t i = 0; i < C; ++i) {
      const int64_t head = i / d, first = head * d, row = i * d;
      const double* of_k = inverse.data() + C + first;
      double mean = 0;
      for (int64_t j = 0; j < d; ++j) mean += double(attn[row + j]) * dattn[row + j];
      for (int64_t j = 0; j < d; ++j) {
        const double dz = attn[row + j] * (dattn[row + j] - mean);  // of the softmax's input
        const double both = inverse[i] * of_k[j], part = dz * sums[row + j] * both;
        to_temperature[head] += part;
        through[i] += part * temperature(head);
        through[C + first + j] += part * temperature(head);
        mix_q[row + j] = mix_k[(first + j) * d + i - first] = static_cast<Acc>(temperature(head) * dz * both);
      }
    }
    for (int64_t i = 0; i < 2 * C; ++i)
      scales[i] = static_cast<Acc>(passes[i] ? -through[i] * inverse[i] * inverse[i] : 0);
    std::copy(to_temperature.begin(), to_temperature.end(), dtemperature);
  }

 private:
  Planes<Acc> rows(Acc* matrix) const { return {matrix, Cp, vectors, 0}; }

  double temperature(int64_t head) const {
    return s.normalised ? static_cast<const Acc*>(w.temperature)[head] : 1 / std::sqrt(static_cast<double>(s.pixels()));
  }

  // 1 / max(norm, smallest) of q's and k's channels, and whether the norm is the larger: else no gradient passes it.
  void norms(const Acc* sums) {
    for (int64_t i = 0; i < 2 * C; ++i) {
      const double norm = std::sqrt(static_cast<double>(sums[s.gram() + i]));
      passes[i] = s.normalised && !(norm < kSmallestNorm);
      inverse[i] = !s.normalised ? 1 : 1 / (passes[i] ? norm : kSmallestNorm);
    }
  }

  const ChannelAttentionShape& s;
  const ChannelAttentionWeights& w;
  const int64_t C = s.channels, Cp = s.padded(), d = s.head(), vectors = Cp / kLanes<Acc>;
  std::vector<Acc> projection;  // [in][Cp out]
  std::vector<double> inverse;
  std::vector<char> passes;
  std::vector<double> z;
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
