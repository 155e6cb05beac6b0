// The attention unit of RDFE's front on one image, forward and backward: a few dot products of vectors of channels.
#pragma once

#include <cmath>

#include "cpu/rdfe_front.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// mean [branch][channel] of f_k from the sums of y that each tap meets; hidden [hidden], before its ReLU.
template <typename Acc>
void attention_inputs(const RdfeShape& s, const RdfeParameters& p, const Acc* sums, Acc* mean, Acc* hidden) {
  const int64_t C = s.channels, size = s.size();
  const Acc *weight = static_cast<const Acc*>(p.weight1), *bias = static_cast<const Acc*>(p.bias1);
  std::vector<Acc> dot(s.block());
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int64_t k = 0; k < s.branches(); ++k) {
      const int64_t first = block * s.block(), count = std::min(s.block(), C - first), kernel = s.kernels[k];
      const int64_t margin = s.border() - kernel / 2;
      std::fill(dot.begin(), dot.end(), Acc(0));
      for (int64_t tap = 0; tap < kernel * kernel; ++tap, weight += s.block()) {
        const Acc* sum = sums + ((tap / kernel + margin) * size + tap % kernel + margin) * C + first;
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) dot[c] += weight[c] * sum[c];
      }
      const Acc* first_bias = bias + (block * s.branches() + k) * s.block();
      for (int64_t c = 0; c < count; ++c)
        mean[k * C + first + c] = dot[c] / static_cast<Acc>(s.pixels()) + first_bias[c];
    }
  const Acc *reduce = static_cast<const Acc*>(p.reduce_weight), *reduce_bias = static_cast<const Acc*>(p.reduce_bias);
  const int64_t inputs = s.branches() * C;
  for (int64_t h = 0; h < s.hidden; ++h) {
    Acc sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < inputs; ++i) sum += reduce[h * inputs + i] * mean[i];
    hidden[h] = sum + reduce_bias[h];
  }
}

// a [channel] = sigmoid(expand(relu(hidden)))
template <typename Acc>
void attention(const RdfeForward& f, const Acc* sums, Acc* a) {
  const RdfeShape& s = f.shape;
  std::vector<Acc> mean(s.branches() * s.channels), hidden(s.hidden);
  attention_inputs(s, f.parameters, sums, mean.data(), hidden.data());
  const Acc* weight = static_cast<const Acc*>(f.parameters.expand_weight);
  const Acc* bias = static_cast<const Acc*>(f.parameters.expand_bias);
  for (int64_t c = 0; c < s.channels; ++c) {
    Acc sum = bias[c];
    // A NaN must pass the ReLU.
    for (int64_t h = 0; h < s.hidden; ++h) sum += weight[c * s.hidden + h] * (hidden[h] < 0 ? Acc(0) : hidden[h]);
    a[c] = 1 / (1 + std::exp(-sum));
  }
}

// From da [channel] to the gradient of f_k [branch][channel], the same at every pixel; adds the parameters' gradients.
template <typename Acc>
void attention_backward(const RdfeBackward& b, const Acc* sums, const Acc* a, const Acc* da, Acc* constant) {
  const RdfeShape& s = b.shape;
  const int64_t C = s.channels, inputs = s.branches() * C;
  std::vector<Acc> mean(inputs), hidden(s.hidden), dhidden(s.hidden);
  attention_inputs(s, b.parameters, sums, mean.data(), hidden.data());
  const Acc* expand = static_cast<const Acc*>(b.parameters.expand_weight);
  const Acc* reduce = static_cast<const Acc*>(b.parameters.reduce_weight);
  Acc *dexpand = static_cast<Acc*>(b.dexpand_weight), *dexpand_bias = static_cast<Acc*>(b.dexpand_bias);
  Acc *dreduce = static_cast<Acc*>(b.dreduce_weight), *dreduce_bias = static_cast<Acc*>(b.dreduce_bias);
  for (int64_t c = 0; c < C; ++c) {
    const Acc d = da[c] * a[c] * (1 - a[c]);
    for (int64_t h = 0; h < s.hidden; ++h) {
      dhidden[h] += d * expand[c * s.hidden + h];
      if (b.need_parameters) dexpand[c * s.hidden + h] += d * std::max(hidden[h], Acc(0));
    }
    if (b.need_parameters) dexpand_bias[c] += d;
  }
  std::fill_n(constant, inputs, Acc(0));
  for (int64_t h = 0; h < s.hidden; ++h) {
    if (hidden[h] <= 0) continue;
    const Acc d = dhidden[h];
#pragma omp simd
    for (int64_t i = 0; i < inputs; ++i) constant[i] += d * reduce[h * inputs + i];
    if (!b.need_parameters) continue;
#pragma omp simd
    for (int64_t i = 0; i < inputs; ++i) dreduce[h * inputs + i] += d * mean[i];
    dreduce_bias[h] += d;
  }
  for (int64_t i = 0; i < inputs; ++i) constant[i] /= static_cast<Acc>(s.pixels());
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
