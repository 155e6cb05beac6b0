// Layer normalisation over the channels at each pixel. Compiled once per capability (AMINET_CAPABILITY).
//   y = (x - mean) * rstd * w + b          mean, rstd over the channels of a pixel
//   dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),  g = dy * w,  xhat = (x - mean) * rstd
#include "cpu/layer_norm2d.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>

#include "layer_norm2d_rows.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

template <typename T, typename Acc>
struct Forward {
  const LayerNormForward& a;
  const int64_t C = a.shape.channels, P = a.shape.pixels;
  const Acc* w = static_cast<const Acc*>(a.weight);
  const Acc* b = static_cast<const Acc*>(a.bias);

  // NCHW: neighbouring pixels of one channel are neighbours, so vectors run along the pixels of a block.
  void planes(const T* x, T* y, Acc* mean, Acc* rstd, int64_t count) const {
    Acc sum[kLayerNormBlock] = {}, squares[kLayerNormBlock] = {};
    for (int64_t c = 0; c < C; ++c) {
#pragma omp simd
      for (int64_t p = 0; p < count; ++p) sum[p] += static_cast<Acc>(x[c * P + p]);
    }
    for (int64_t p = 0; p < count; ++p) mean[p] = sum[p] / static_cast<Acc>(C);
    for (int64_t c = 0; c < C; ++c) {
#pragma omp simd
      for (int64_t p = 0; p < count; ++p) {
        const Acc d = static_cast<Acc>(x[c * P + p]) - mean[p];
        squares[p] += d * d;
      }
    }
    for (int64_t p = 0; p < count; ++p)
      rstd[p] = 1 / std::sqrt(squares[p] / static_cast<Acc>(C) + static_cast<Acc>(a.eps));
    for (int64_t c = 0; c < C; ++c) {
#pragma omp simd
      for (int64_t p = 0; p < count; ++p)
        y[c * P + p] = narrowed<T>((static_cast<Acc>(x[c * P + p]) - mean[p]) * rstd[p] * w[c] + b[c]);
    }
  }
};

template <typename T, typename Acc>
struct Backward {
  const LayerNormBackward& a;
  const int64_t C = a.shape.channels, P = a.shape.pixels;
  const Acc* w = static_cast<const Acc*>(a.weight);

  void planes(const T* dy, const T* x, const Acc* mean, const Acc* rstd, T* dx, Acc* dw, Acc* db, int64_t count) const {
    Acc sum[kLayerNormBlock] = {}, dot[kLayerNormBlock] = {};
    for (int64_t c = 0; c < C; ++c) {
      Acc weight_sum = 0, bias_sum = 0;
#pragma omp simd reduction(+ : weight_sum, bias_sum)
      for (int64_t p = 0; p < count; ++p) {
        const Acc d = static_cast<Acc>(dy[c * P + p]), xhat = (static_cast<Acc>(x[c * P + p]) - mean[p]) * rstd[p];
        sum[p] += d * w[c];
        dot[p] += d * w[c] * xhat;
        weight_sum += d * xhat;
        bias_sum += d;
      }
      dw[c] += weight_sum;
      db[c] += bias_sum;
    }
    for (int64_t p = 0; p < count; ++p) {
      sum[p] /= static_cast<Acc>(C);
      dot[p] /= static_cast<Acc>(C);
    }
    for (int64_t c = 0; c < C; ++c) {
#pragma omp simd
      for (int64_t p = 0; p < count; ++p) {
        const Acc xhat = (static_cast<Acc>(x[c * P + p]) - mean[p]) * rstd[p];
        dx[c * P + p] = narrowed<T>(rstd[p] * (static_cast<Acc>(dy[c * P + p]) * w[c] - sum[p] - xhat * dot[p]));
      }
    }
  }
};

// Where a block lies: its first pixel's index among all statistics and its first element among the data.
struct Block {
  int64_t pixel, element, count;
  Block(const LayerNormShape& s, int64_t index) {
    const int64_t per_image = (s.pixels + kLayerNormBlock - 1) / kLayerNormBlock;
    const int64_t image = index / per_image, first = index % per_image * kLayerNormBlock;
    count = std::min(kLayerNormBlock, s.pixels - first);
    pixel = image * s.pixels + first;
    element = image * s.pixels * s.channels + (s.channels_last ? first * s.channels : first);
  }
};

template <typename T, typename Acc>
void forward_blocks(const LayerNormForward& a, int64_t first, int64_t last) {
  const Forward<T, Acc> run{a};
  const LayerNormRows<T, Acc> rows(a.shape.channels, a.weight, a.bias, a.eps);
  for (int64_t i = first; i < last; ++i) {
    const Block block(a.shape, i);
    const T* x = static_cast<const T*>(a.x) + block.element;
    T* y = static_cast<T*>(a.y) + block.element;
    Acc* mean = static_cast<Acc*>(a.mean) + block.pixel;
    Acc* rstd = static_cast<Acc*>(a.rstd) + block.pixel;
    a.shape.channels_last ? rows.forward(x, y, mean, rstd, block.count) : run.planes(x, y, mean, rstd, block.count);
  }
}

template <typename T, typename Acc>
void backward_chunks(const LayerNormBackward& a, int64_t first, int64_t last) {
  const Backward<T, Acc> run{a};
  const LayerNormRows<T, Acc> rows(a.shape.channels, a.weight, a.weight, 0);
  const int64_t blocks = layer_norm_blocks(a.shape), C = a.shape.channels;
  for (int64_t chunk = first; chunk < last; ++chunk) {
    Acc* dw = static_cast<Acc*>(a.partial) + chunk * 2 * C;
    for (int64_t i = blocks * chunk / a.chunks; i < blocks * (chunk + 1) / a.chunks; ++i) {
      const Block block(a.shape, i);
      const T* dy = static_cast<const T*>(a.dy) + block.element;
      const T* x = static_cast<const T*>(a.x) + block.element;
      T* dx = static_cast<T*>(a.dx) + block.element;
      const Acc* mean = static_cast<const Acc*>(a.mean) + block.pixel;
      const Acc* rstd = static_cast<const Acc*>(a.rstd) + block.pixel;
      if (a.shape.channels_last)
        rows.backward(dy, x, mean, rstd, dx, dw, dw + C, block.count);
      else
        run.planes(dy, x, mean, rstd, dx, dw, dw + C, block.count);
    }
  }
}

void forward(Scalar scalar, const LayerNormForward& a, int64_t first, int64_t last) {
  switch (scalar) {
    case Scalar::f32: return forward_blocks<float, float>(a, first, last);
    case Scalar::f64: return forward_blocks<double, double>(a, first, last);
    case Scalar::bf16: return forward_blocks<c10::BFloat16, float>(a, first, last);
    case Scalar::f16: return forward_blocks<c10::Half, float>(a, first, last);
  }
}

void backward(Scalar scalar, const LayerNormBackward& a, int64_t first, int64_t last) {
  switch (scalar) {
    case Scalar::f32: return backward_chunks<float, float>(a, first, last);
    case Scalar::f64: return backward_chunks<double, double>(a, first, last);
    case Scalar::bf16: return backward_chunks<c10::BFloat16, float>(a, first, last);
    case Scalar::f16: return backward_chunks<c10::Half, float>(a, first, last);
  }
}

}  // namespace

extern const LayerNormKernels layer_norm2d = {forward, backward};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
