// Attention between channels. Compiled once per capability (AMINET_CAPABILITY).
//   q, k, v = depthwise(W x);  y = M v,  M = projection * blockdiag(softmax(temperature * q k^T / |q| |k|))
// Reads x once (rows where units meet again), writes y; q and k live for one band only, in cache. v waits for M in y's
// own memory where that has the sums' type. A band is some rows of one image, all channels, as planes (channel_attention_products.h says why).
#include "cpu/channel_attention.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "channel_attention_backward.h"
#include "channel_attention_bands.h"
#include "channel_attention_small.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

template <typename T, typename Acc>
void gram_units(const ChannelAttentionForward& a, int64_t first_unit, int64_t last_unit) {
  const ChannelAttentionShape& s = a.shape;
  const int64_t C = s.channels, d = s.head(), R = s.band_rows();
  const Grid<Acc> grid(s);
  const int64_t stride = grid.dense(R + 2);
  Scratch<Acc> scratch(Window<Acc>::elements(grid, 3 * C, R + 2) + (C + 3 * d) * stride);
  Window<Acc> window(grid, scratch.take(Window<Acc>::elements(grid, 3 * C, R + 2)), 3 * C, R + 2);
  Acc* x = scratch.take(C * stride);
  Acc *q = scratch.take(d * stride), *k = scratch.take(d * stride), *v = scratch.take(d * stride);
  const Source<T, Acc> source = {s, a.weights, a.x, nullptr, static_cast<Acc*>(a.kept), grid, x, stride};
  const Acc* depthwise = static_cast<const Acc*>(a.weights.depthwise);
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit(s, index);
    Acc* sums = static_cast<Acc*>(a.sums) + index * s.sums();
    std::fill_n(sums, s.sums(), Acc(0));
    window.start();
    for (int64_t first = unit.first, last; first < unit.last; first = last) {
      last = std::min(first + R, unit.last);
      const int64_t vectors = (last - first) * grid.vectors;
      source.fill(unit, window, 0, window.move(first - 1, last + 1), last + 1);
      for (int64_t c = 0; c < C; c += d) {
        convolve_channels(window, c, d, depthwise + c * 9, first, last, q, stride);
        convolve_channels(window, C + c, d, depthwise + (C + c) * 9, first, last, k, stride);
        convolve_channels(window, 2 * C + c, d, depthwise + (2 * C + c) * 9, first, last, v, stride);
        add_squares(d, q, stride, vectors, sums + s.gram() + c);
        add_squares(d, k, stride, vectors, sums + s.gram() + C + c);
        add_dots(d, d, q, stride, k, stride, vectors, sums + c * d, d);
        write_rows(Image<Acc>(s, static_cast<Acc*>(a.v), unit.image), grid, c, d, first, last, v, stride);
      }
    }
  }
}

template <typename T, typename Acc>
void project_units(const ChannelAttentionForward& a, int64_t first_unit, int64_t last_unit) {
  const ChannelAttentionShape& s = a.shape;
  const int64_t C = s.channels, Cp = s.padded(), R = s.band_rows();
  const Grid<Acc> grid(s);
  const int64_t stride = grid.dense(R);
  Scratch<Acc> scratch(2 * C * stride);
  Acc *v = scratch.take(C * stride), *y = scratch.take(C * stride);
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit(s, index);
    const Matrix<Acc> fused = {static_cast<const Acc*>(a.fused) + unit.image * C * Cp, 1, Cp};
    for (int64_t first = unit.first, last; first < unit.last; first = last) {
      last = std::min(first + R, unit.last);
      const int64_t vectors = (last - first) * grid.vectors;
      read_rows(Image<const Acc>(s, static_cast<const Acc*>(a.v), unit.image), grid, 0, C, first, last, v, stride);
      multiply(C, C, fused, v, stride, vectors, Planes<Acc>{y, stride, vectors, 0});
      write_rows(Image<T>(s, static_cast<T*>(a.y), unit.image), grid, 0, C, first, last, y, stride);
    }
  }
}

// to = the sum of an image's units, in their order.
template <typename Acc>
void add_units(const ChannelAttentionShape& s, const Acc* from, int64_t elements, Acc* to) {
  std::copy_n(from, elements, to);
  for (int64_t unit = 1; unit < s.image_units(); ++unit)
    for (int64_t i = 0; i < elements; ++i) to[i] += from[unit * elements + i];
}

template <typename Acc>
void softmax_images(const ChannelAttentionForward& a, int64_t first, int64_t last) {
  const ChannelAttentionShape& s = a.shape;
  Small<Acc> small(s, a.weights);
  for (int64_t image = first; image < last; ++image) {
    Acc* sums = static_cast<Acc*>(a.gram) + image * s.sums();
    Acc* attn = static_cast<Acc*>(a.attn) + image * s.gram();
    add_units(s, static_cast<const Acc*>(a.sums) + image * s.image_units() * s.sums(), s.sums(), sums);
    small.softmax(sums, attn);
    small.fuse(attn, static_cast<Acc*>(a.fused) + image * s.channels * s.padded());
  }
}

template <typename Acc>
void dsoftmax_images(const ChannelAttentionBackward& a, int64_t first, int64_t last) {
  const ChannelAttentionShape& s = a.shape;
  const int64_t C = s.channels, matrix = C * s.padded();
  Small<Acc> small(s, a.weights);
  std::vector<Acc> dfused(matrix), dattn(s.gram());
  for (int64_t image = first; image < last; ++image) {
    const Acc* sums = static_cast<const Acc*>(a.gram) + image * s.sums();
    const Acc* attn = static_cast<const Acc*>(a.attn) + image * s.gram();
    add_units(s, static_cast<const Acc*>(a.dfused) + image * s.image_units() * matrix, matrix, dfused.data());
    small.fuse(attn, static_cast<Acc*>(a.fused) + image * matrix);
    small.fuse_backward(dfused.data(), attn, dattn.data(), static_cast<Acc*>(a.dprojection) + image * matrix);
    small.softmax_backward(sums, attn, dattn.data(), static_cast<Acc*>(a.mix_q) + image * s.gram(),
                           static_cast<Acc*>(a.mix_k) + image * s.gram(),
                           static_cast<Acc*>(a.scales) + image * 2 * C,
                           static_cast<Acc*>(a.dtemperature) + image * s.heads);
  }
}

template <typename T, typename Acc>
void dqkv_tasks(const ChannelAttentionBackward& a, int64_t first, int64_t last) {
  Dqkv<T, Acc>{a}.run(first, last);
}

// Calls run<T, Acc>(arguments, first, last) for the scalar's types.
#define AMINET_FOR_SCALAR(run)                                           \
  switch (scalar) {                                                      \
    case Scalar::f32: return run<float, float>(a, first, last);          \
    case Scalar::f64: return run<double, double>(a, first, last);        \
    case Scalar::bf16: return run<c10::BFloat16, float>(a, first, last); \
    case Scalar::f16: return run<c10::Half, float>(a, first, last);      \
  }

using Forward = ChannelAttentionForward;
using Backward = ChannelAttentionBackward;

void gram(Scalar scalar, const Forward& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(gram_units) }
void project(Scalar scalar, const Forward& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(project_units) }
void dfused(Scalar scalar, const Backward& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(dfused_units) }
void dqkv(Scalar scalar, const Backward& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(dqkv_tasks) }

void softmax(Scalar scalar, const Forward& a, int64_t first, int64_t last) {
  scalar == Scalar::f64 ? softmax_images<double>(a, first, last) : softmax_images<float>(a, first, last);
}

void dsoftmax(Scalar scalar, const Backward& a, int64_t first, int64_t last) {
  scalar == Scalar::f64 ? dsoftmax_images<double>(a, first, last) : dsoftmax_images<float>(a, first, last);
}

}  // namespace

extern const ChannelAttentionKernels channel_attention = {gram, softmax, project, dfused, dsoftmax, dqkv};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
