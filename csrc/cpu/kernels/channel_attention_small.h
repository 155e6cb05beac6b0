// channel_attention's matrices of channels, between the passes over the pixels: softmax, its backward, normalisation.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/channel_attention.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// torch.nn.functional.normalize's
constexpr double kSmallestNorm = 1e-12;

// 1 / max(norm, smallest), and whether the norm is the larger: else no gradient passes it.
struct Norm {
  double inverse;
  bool passes;
  Norm(bool normalised, double squares) {
    const double norm = std::sqrt(squares);
    passes = normalised && !(norm < kSmallestNorm);
    inverse = normalised ? 1 / (passes ? norm : kSmallestNorm) : 1;
  }
};

template <typename Acc>
struct Small {
  const ChannelAttentionShape& s;
  const ChannelAttentionWeights& w;
  const int64_t C = s.channels, d = s.head();
  const Acc* projection = static_cast<const Acc*>(w.projection);

  double temperature(int64_t head) const {
    return s.normalised ? static_cast<const Acc*>(w.temperature)[head] : 1 / std::sqrt(static_cast<double>(s.pixels()));
  }
  // sums: q k^T [C][head], then the squared norms.
  Norm norm_q(const Acc* sums, int64_t c) const { return {s.normalised, sums[s.gram() + c]}; }
  Norm norm_k(const Acc* sums, int64_t c) const { return {s.normalised, sums[s.gram() + C + c]}; }

  void softmax(const Acc* sums, Acc* attn) const {
    std::vector<double> z(d), inverse(d);
    for (int64_t i = 0; i < C; ++i, attn += d) {
      const int64_t head = i / d;
      const double scale = temperature(head) * norm_q(sums, i).inverse;
      if (i % d == 0)
        for (int64_t j = 0; j < d; ++j) inverse[j] = norm_k(sums, head * d + j).inverse;
      double largest = -INFINITY, total = 0;
      for (int64_t j = 0; j < d; ++j) {
        z[j] = sums[i * d + j] * scale * inverse[j];
        largest = std::max(largest, z[j]);
      }
      for (int64_t j = 0; j < d; ++j) total += z[j] = std::exp(z[j] - largest);
      for (int64_t j = 0; j < d; ++j) attn[j] = static_cast<Acc>(z[j] / total);
    }
  }

  // fused [C][C] = projection * blockdiag(attn)
  void fuse(const Acc* attn, Acc* fused) const {
    std::fill_n(fused, C * C, Acc(0));
    for (int64_t o = 0; o < C; ++o)
      for (int64_t i = 0; i < C; ++i) {
        const Acc p = projection[o * C + i];
        const Acc* from = attn + i * d;
        Acc* to = fused + o * C + i / d * d;
#pragma omp simd
        for (int64_t j = 0; j < d; ++j) to[j] += p * from[j];
      }
  }

  // Through fuse: dattn [C][head], zeroed, and dprojection [C][C].
  void fuse_backward(const Acc* dfused, const Acc* attn, Acc* dattn, Acc* dprojection) const {
    for (int64_t o = 0; o < C; ++o)
      for (int64_t i = 0; i < C; ++i) {
        const Acc p = projection[o * C + i];
        const Acc *from = dfused + o * C + i / d * d, *weight = attn + i * d;
        Acc *to = dattn + i * d, sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < d; ++j) {
          to[j] += p * from[j];
          sum += weight[j] * from[j];
        }
        dprojection[o * C + i] = sum;
      }
  }

  // From dattn: dq = mix_q k + scales[0] * q, dk = mix_k q + scales[1] * k. mix_q may be dattn.
  void softmax_backward(const Acc* sums, const Acc* attn, const Acc* dattn, Acc* mix_q, Acc* mix_k, Acc* scales,
                        Acc* dtemperature) const {
    std::vector<double> to_q(C), to_k(C), to_temperature(s.heads);
    for (int64_t i = 0; i < C; ++i) {
      const int64_t head = i / d, first = head * d, row = i * d;
      const Norm q = norm_q(sums, i);
      double mean = 0;
      for (int64_t j = 0; j < d; ++j) mean += double(attn[row + j]) * dattn[row + j];
      for (int64_t j = 0; j < d; ++j) {
        const double dz = attn[row + j] * (dattn[row + j] - mean);  // of the softmax's input
        const double inverse = q.inverse * norm_k(sums, first + j).inverse;
        const double cosine = sums[row + j] * inverse, through = temperature(head) * dz * cosine;
        to_temperature[head] += dz * cosine;
        to_q[i] += through;
        to_k[first + j] += through;
        const Acc mix = static_cast<Acc>(temperature(head) * dz * inverse);
        mix_q[row + j] = mix;
        mix_k[(first + j) * d + i - first] = mix;
      }
    }
    for (int64_t i = 0; i < C; ++i) {
      const Norm q = norm_q(sums, i), k = norm_k(sums, i);
      scales[i] = static_cast<Acc>(q.passes ? -to_q[i] * q.inverse * q.inverse : 0);
      scales[C + i] = static_cast<Acc>(k.passes ? -to_k[i] * k.inverse * k.inverse : 0);
    }
    std::copy(to_temperature.begin(), to_temperature.end(), dtemperature);
  }
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
