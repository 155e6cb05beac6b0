// Units and bands of channel_attention's passes, and the 1x1 convolution that fills a window of rows for them.
#pragma once

#include "channel_attention_depthwise.h"
#include "channel_attention_planes.h"
#include "channel_attention_scratch.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

struct Unit {
  int64_t image, first, last;  // rows
  Unit(const ChannelAttentionShape& s, int64_t index) : image(index / s.image_units()) {
    first = std::min(s.height, index % s.image_units() * s.unit_rows());
    last = std::min(s.height, first + s.unit_rows());
  }
};

// The 1x1 convolution's output for some of its channels, c0 and on, into windows; or out of what the forward kept.
template <typename T, typename Acc>
struct Source {
  const ChannelAttentionShape& s;
  const ChannelAttentionWeights& w;
  const void* x;
  const void* kept;  // to read; or null
  Acc* keep;         // to write; or null
  Grid<Acc> grid;
  Acc* rows;  // dense x, of as many rows as are filled at once
  int64_t stride;

  int64_t plane(int64_t image, int64_t c) const { return (image * 3 * s.channels + c) * s.pixels(); }

  // Fills rows [first, last) of `window`, whose channel 0 is c0.
  void fill(const Unit& unit, const Window<Acc>& window, int64_t c0, int64_t first, int64_t last) const {
    for (int64_t r = first; r < std::min<int64_t>(last, 0); ++r) window.clear_row(r);
    for (int64_t r = std::max(first, s.height); r < last; ++r) window.clear_row(r);
    first = std::max<int64_t>(first, 0);
    last = std::min(last, s.height);
    if (first >= last) return;
    if (kept != nullptr) return copy(unit, window, c0, first, last);
    const Image<const T> image(s, static_cast<const T*>(x), unit.image);
    read_rows(image, grid, 0, s.channels, first, last, rows, stride);
    const Matrix<Acc> matrix = {static_cast<const Acc*>(w.qkv) + c0 * s.channels, s.channels, 1};
    multiply(window.channels, s.channels, matrix, rows, stride, (last - first) * grid.vectors,
             window.planes(0, first));
    if (keep != nullptr)
      for (int64_t c = 0; c < window.channels; ++c)
        for (int64_t r = std::max(first, unit.first); r < std::min(last, unit.last); ++r)
          copy_row(grid, window.row(c, r), keep + plane(unit.image, c0 + c) + r * s.width);
  }

  void copy(const Unit& unit, const Window<Acc>& window, int64_t c0, int64_t first, int64_t last) const {
    for (int64_t c = 0; c < window.channels; ++c)
      for (int64_t r = first; r < last; ++r) {
        copy_row(grid, static_cast<const Acc*>(kept) + plane(unit.image, c0 + c) + r * s.width, window.row(c, r));
        std::fill_n(window.row(c, r) + s.width, grid.wide() - s.width, Acc(0));
      }
  }
};

// Depthwise convolution of rows [first, last) of `count` of the window's channels, to dense planes.
template <typename Acc>
void convolve_channels(const Window<Acc>& window, int64_t channel, int64_t count, const Acc* weight, int64_t first,
                       int64_t last, Acc* out, int64_t stride) {
  for (int64_t c = 0; c < count; ++c)
    convolve(window.row(channel + c, first), window.grid.pitch(), weight + 9 * c, last - first, window.grid.width,
             window.grid.vectors, out + c * stride);
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
