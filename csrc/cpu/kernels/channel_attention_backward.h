// channel_attention's backward passes over the pixels.
//   dM^T = v dy^T;  dq = A k + s q, dk = A^T q + s' k, dv = M^T dy;  through the depthwise and the 1x1 convolution
// q, k and v are made again, band by band, from x, or from the 1x1 convolution's output where the forward kept it.
#pragma once

#include "channel_attention_bands.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// dfused of each unit: sums of v dy^T.
template <typename T, typename Acc>
void dfused_units(const ChannelAttentionBackward& a, int64_t first_unit, int64_t last_unit) {
  const ChannelAttentionShape& s = a.shape;
  const int64_t C = s.channels, Cp = s.padded(), R = s.band_rows();
  const Grid<Acc> grid(s);
  const int64_t dense = grid.dense(R + 2);
  Scratch<Acc> scratch(Window<Acc>::elements(grid, C, R + 2) + 3 * C * dense);
  Window<Acc> window(grid, scratch.take(Window<Acc>::elements(grid, C, R + 2)), C, R + 2);
  Acc *x = scratch.take(C * dense), *dy = scratch.take(C * dense), *v = scratch.take(C * dense);
  const Source<T, Acc> source = {s, a.weights, a.x, a.kept, nullptr, grid, x, dense};
  const Acc* depthwise = static_cast<const Acc*>(a.weights.depthwise) + 2 * C * 9;
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit(s, index);
    Acc* out = static_cast<Acc*>(a.dfused) + index * C * Cp;
    std::fill_n(out, C * Cp, Acc(0));
    window.start();
    for (int64_t first = unit.first, last; first < unit.last; first = last) {
      last = std::min(first + R, unit.last);
      source.fill(unit, window, 2 * C, window.move(first - 1, last + 1), last + 1);
      convolve_channels(window, 0, C, depthwise, first, last, v, dense);
      const Image<const T> image(s, static_cast<const T*>(a.dy), unit.image);
      read_rows(image, grid, 0, C, first, last, dy, dense);
      add_dots(C, C, v, dense, dy, dense, (last - first) * grid.vectors, out, Cp);
    }
  }
}

template <typename T, typename Acc>
struct Dqkv {
  const ChannelAttentionBackward& a;
  const ChannelAttentionShape& s = a.shape;
  const int64_t C = s.channels, d = s.head(), R = s.band_rows();
  const Grid<Acc> grid{s};
  const int64_t stride = grid.dense(R + 4);
  Scratch<Acc> scratch{Window<Acc>::elements(grid, 3 * C, R + 4) + Window<Acc>::elements(grid, 3 * C, R + 2) +
                       (5 * C + 2 * d) * stride + 27 * C};
  Window<Acc> before{grid, scratch.take(Window<Acc>::elements(grid, 3 * C, R + 4)), 3 * C, R + 4};
  Window<Acc> after{grid, scratch.take(Window<Acc>::elements(grid, 3 * C, R + 2)), 3 * C, R + 2};  // gradients
  Acc* x = scratch.take(C * stride);
  Acc* image = scratch.take(C * stride);  // dy, then dx
  Acc* qk = scratch.take(2 * d * stride);
  Acc* dqkv = scratch.take(3 * C * stride);
  Acc* flipped = scratch.take(27 * C);
  const Acc* depthwise = static_cast<const Acc*>(a.weights.depthwise);
  const Source<T, Acc> source{s, a.weights, a.x, a.kept, nullptr, grid, x, stride};

  // Gradients of q, k and v in rows [first, last) of the image.
  void gradients(const Unit& unit, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      if (r < 0 || r >= s.height) after.clear_row(r);
    first = std::max<int64_t>(first, 0);
    last = std::min(last, s.height);
    if (first >= last) return;
    const int64_t vectors = (last - first) * grid.vectors, n = unit.image;
    read_rows(Image<const T>(s, static_cast<const T*>(a.dy), n), grid, 0, C, first, last, image, stride);
    const Acc* scales = static_cast<const Acc*>(a.scales) + n * 2 * C;
    Acc *q = qk, *k = qk + d * stride;
    for (int64_t c = 0; c < C; c += d) {
      convolve_channels(before, c, d, depthwise + c * 9, first, last, q, stride);
      convolve_channels(before, C + c, d, depthwise + (C + c) * 9, first, last, k, stride);
      const Matrix<Acc> mix_q = {static_cast<const Acc*>(a.mix_q) + (n * C + c) * d, d, 1};
      const Matrix<Acc> mix_k = {static_cast<const Acc*>(a.mix_k) + (n * C + c) * d, d, 1};
      const Scaled<Acc> of_q = {scales + c, q, stride}, of_k = {scales + C + c, k, stride};
      multiply(d, d, mix_q, k, stride, vectors, after.planes(c, first), &of_q);
      multiply(d, d, mix_k, q, stride, vectors, after.planes(C + c, first), &of_k);
    }
    const Matrix<Acc> fused = {static_cast<const Acc*>(a.fused) + n * C * s.padded(), s.padded(), 1};
    multiply(C, C, fused, image, stride, vectors, after.planes(2 * C, first));
  }

  // partial: [3C][C], then [3C][9].
  void band(const Unit& unit, int64_t first, int64_t last, Acc* partial) {
    const int64_t vectors = (last - first) * grid.vectors;
    for (int64_t c = 0; c < 3 * C; ++c)
      add_correlation(after.row(c, first), before.row(c, first), grid.pitch(), last - first, grid.vectors,
                      partial + 3 * C * C + c * 9);
    convolve_channels(after, 0, 3 * C, flipped, first, last, dqkv, stride);
    if (a.need_qkv) {
      read_rows(Image<const T>(s, static_cast<const T*>(a.x), unit.image), grid, 0, C, first, last, x, stride);
      add_dots(3 * C, C, dqkv, stride, x, stride, vectors, partial, C);
    }
    if (a.dx != nullptr) {
      const Matrix<Acc> back = {static_cast<const Acc*>(a.weights.qkv), 1, C};
      multiply(C, 3 * C, back, dqkv, stride, vectors, {image, stride, vectors, 0});
      write_rows(Image<T>(s, static_cast<T*>(a.dx), unit.image), grid, 0, C, first, last, image, stride);
    }
  }

  void run(int64_t first_task, int64_t last_task) {
    for (int64_t c = 0; c < 3 * C; ++c) std::reverse_copy(depthwise + c * 9, depthwise + c * 9 + 9, flipped + c * 9);
    const int64_t elements = 3 * C * (C + 9);
    for (int64_t task = first_task; task < last_task; ++task) {
      Acc* partial = static_cast<Acc*>(a.partial) + task * elements;
      std::fill_n(partial, elements, Acc(0));
      for (int64_t u = s.units() * task / a.tasks; u < s.units() * (task + 1) / a.tasks; ++u) {
        const Unit unit(s, u);
        before.start();
        after.start();
        for (int64_t first = unit.first, last; first < unit.last; first = last) {
          last = std::min(first + R, unit.last);
          source.fill(unit, before, 0, before.move(first - 2, last + 2), last + 2);
          gradients(unit, after.move(first - 1, last + 1), last + 1);
          band(unit, first, last, partial);
        }
      }
    }
  }
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
