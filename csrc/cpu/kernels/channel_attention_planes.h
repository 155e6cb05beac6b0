// Between images in their own layout and type, and the planes that channel_attention's loops work on.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "channel_attention_products.h"
#include "cpu/channel_attention.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Row by row the lower (or upper) halves of a and b, lanes in turn.
template <typename T, int... I>
inline Vector<T> interleaved(const Vector<T>& a, const Vector<T>& b, bool upper, std::integer_sequence<int, I...>) {
  constexpr int L = kLanes<T>;
  return upper ? __builtin_shufflevector(a, b, (I / 2 + L / 2 + I % 2 * L)...)
               : __builtin_shufflevector(a, b, (I / 2 + I % 2 * L)...);
}

template <typename T>
inline void transpose(Vector<T> (&v)[kLanes<T>]) {
  constexpr int L = kLanes<T>;
  constexpr std::make_integer_sequence<int, L> lanes;
#pragma GCC unroll 4
  for (int step = 1; step < L; step *= 2) {
    Vector<T> w[L];
#pragma GCC unroll 16
    for (int i = 0; i < L / 2; ++i) {
      w[2 * i] = interleaved<T>(v[i], v[i + L / 2], false, lanes);
      w[2 * i + 1] = interleaved<T>(v[i], v[i + L / 2], true, lanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = w[i];
  }
}

// Half a vector from memory, zeros after it; and half of one to memory.
template <typename T, int... I>
inline Vector<T> widened(const T* from, std::integer_sequence<int, I...>) {
  typename Wide<T, kLanes<T> / 2>::type half, zeros = {};
  std::memcpy(&half, from, sizeof half);
  return __builtin_shufflevector(half, zeros, I...);
}

template <typename T, int... I>
inline void store_half(T* to, const Vector<T>& v, std::integer_sequence<int, I...>) {
  const typename Wide<T, kLanes<T> / 2>::type half = __builtin_shufflevector(v, v, I...);
  std::memcpy(to, &half, sizeof half);
}

// `count` elements as a vector, zeros after them.
template <typename T, typename Acc>
inline Vector<Acc> load_some(const T* from, int64_t count) {
  constexpr int L = kLanes<Acc>;
  if constexpr (std::is_same_v<T, Acc>) {
    if (count == L) return load(from);
    if (count == L / 2) return widened<T>(from, std::make_integer_sequence<int, L>());
  }
  Acc values[L] = {};
  if (count == L)
    for (int i = 0; i < L; ++i) values[i] = static_cast<Acc>(from[i]);
  else if (count == L / 2)
    for (int i = 0; i < L / 2; ++i) values[i] = static_cast<Acc>(from[i]);
  else
    for (int i = 0; i < count; ++i) values[i] = static_cast<Acc>(from[i]);
  return load(values);
}

template <typename T, typename Acc>
inline void store_some(T* to, const Vector<Acc>& v, int64_t count) {
  constexpr int L = kLanes<Acc>;
  if constexpr (std::is_same_v<T, Acc>) {
    if (count == L) return store(to, v);
    if (count == L / 2) return store_half<T>(to, v, std::make_integer_sequence<int, L / 2>());
  }
  Acc values[L];
  store(values, v);
  if (count == L)
    for (int i = 0; i < L; ++i) to[i] = narrowed<T>(values[i]);
  else if (count == L / 2)
    for (int i = 0; i < L / 2; ++i) to[i] = narrowed<T>(values[i]);
  else
    for (int i = 0; i < count; ++i) to[i] = narrowed<T>(values[i]);
}

// The sizes of the planes, in elements. Dense rows follow one another; bordered rows have zeros between them. Channels
// are an odd number of vectors apart, or they would all want the same few places of the first cache.
template <typename Acc>
struct Grid {
  static constexpr int L = kLanes<Acc>;
  int64_t width, vectors;  // of a row
  explicit Grid(const ChannelAttentionShape& s) : width(s.width), vectors((s.width + L - 1) / L) {}
  int64_t wide() const { return vectors * L; }
  int64_t pitch() const { return wide() + L; }
  int64_t dense(int64_t rows) const { return ((rows * vectors) | 1) * L; }
  int64_t bordered(int64_t rows) const { return ((rows * (vectors + 1) + 1) | 1) * L; }
};

// Where an image's data lies.
template <typename T>
struct Image {
  T* data;
  int64_t pixel, channel;  // strides
  Image(const ChannelAttentionShape& s, T* all, int64_t image)
      : data(all + image * s.channels * s.pixels()),
        pixel(s.channels_last ? s.channels : 1),
        channel(s.channels_last ? 1 : s.pixels()) {}
};

// Rows [first, last) of `channels` channels from c0 on, to dense planes.
template <typename T, typename Acc>
void read_rows(const Image<const T>& image, const Grid<Acc>& grid, int64_t c0, int64_t channels, int64_t first,
               int64_t last, Acc* to, int64_t stride) {
  constexpr int L = kLanes<Acc>;
  for (int64_t row = first; row < last; ++row)
    for (int64_t x = 0; x < grid.wide(); x += L) {
      const T* from = image.data + (row * grid.width + x) * image.pixel + c0 * image.channel;
      const int64_t pixels = std::min<int64_t>(L, grid.width - x);
      Acc* out = to + (row - first) * grid.wide() + x;
      if (image.pixel == 1) {
        for (int64_t c = 0; c < channels; ++c) store(out + c * stride, load_some<T, Acc>(from + c * image.channel, pixels));
        continue;
      }
      for (int64_t c = 0; c < channels; c += L) {
        const int64_t count = std::min<int64_t>(L, channels - c);
        // The processor does not see the rows of a tile as one stream.
        for (int p = 0; p < L; ++p) __builtin_prefetch(from + (p + 2 * L) * image.pixel + c);
        Vector<Acc> v[L] = {};
        if (pixels == L && count == L)
          for (int p = 0; p < L; ++p) v[p] = load_some<T, Acc>(from + p * image.pixel + c, L);
        else
          for (int p = 0; p < pixels; ++p) v[p] = load_some<T, Acc>(from + p * image.pixel + c, count);
        transpose<Acc>(v);
        for (int i = 0; i < count; ++i) store(out + (c + i) * stride, v[i]);
      }
    }
}

// The inverse of read_rows.
template <typename T, typename Acc>
void write_rows(const Image<T>& image, const Grid<Acc>& grid, int64_t c0, int64_t channels, int64_t first, int64_t last,
                const Acc* from, int64_t stride) {
  constexpr int L = kLanes<Acc>;
  for (int64_t row = first; row < last; ++row)
    for (int64_t x = 0; x < grid.wide(); x += L) {
      T* to = image.data + (row * grid.width + x) * image.pixel + c0 * image.channel;
      const int64_t pixels = std::min<int64_t>(L, grid.width - x);
      const Acc* in = from + (row - first) * grid.wide() + x;
      if (image.pixel == 1) {
        for (int64_t c = 0; c < channels; ++c) store_some<T, Acc>(to + c * image.channel, load(in + c * stride), pixels);
        continue;
      }
      for (int64_t c = 0; c < channels; c += L) {
        const int64_t count = std::min<int64_t>(L, channels - c);
        Vector<Acc> v[L] = {};
        for (int i = 0; i < count; ++i) v[i] = load(in + (c + i) * stride);
        transpose<Acc>(v);
        if (pixels == L && count == L)
          for (int p = 0; p < L; ++p) store_some<T, Acc>(to + p * image.pixel + c, v[p], L);
        else
          for (int p = 0; p < pixels; ++p) store_some<T, Acc>(to + p * image.pixel + c, v[p], count);
      }
    }
}

// One row of an image.
template <typename Acc>
inline void copy_row(const Grid<Acc>& grid, const Acc* from, Acc* to) {
  if (grid.width != grid.wide()) {
    std::copy_n(from, grid.width, to);
    return;
  }
  for (int64_t x = 0; x < grid.width; x += grid.L) store(to + x, load(from + x));
}

// Rows of some channels inside a border of zeros, going down an image. Row r is at row(r); rows outside are zero.
template <typename Acc>
struct Window {
  Grid<Acc> grid;
  Acc* data;  // [channels][stride]
  int64_t channels, stride, first, last;
  static int64_t elements(const Grid<Acc>& grid, int64_t channels, int64_t rows) {
    return channels * grid.bordered(rows);
  }
  Window(const Grid<Acc>& g, Acc* memory, int64_t channels, int64_t rows)
      : grid(g), data(memory), channels(channels), stride(g.bordered(rows)) {
    start();
    for (int64_t at = 0; at < channels * stride; at += stride)
      for (int64_t r = 0; r <= rows; ++r) store(data + at + r * grid.pitch(), Vector<Acc>{});
  }

  Acc* row(int64_t channel, int64_t r) const {
    return data + channel * stride + (r - first) * grid.pitch() + grid.L;
  }
  Planes<Acc> planes(int64_t channel, int64_t r) const { return {row(channel, r), stride, grid.vectors, grid.pitch()}; }

  // To hold rows [from, to): those already held are kept. Returns the first row that is to be filled.
  int64_t move(int64_t from, int64_t to) {
    const int64_t kept = std::max<int64_t>(0, last - from);
    if (kept > 0)
      for (int64_t c = 0; c < channels; ++c) {
        const Acc* old = row(c, from);
        std::copy(old, old + kept * grid.pitch(), row(c, first));
      }
    first = from;
    last = to;
    return from + kept;
  }
  // Nothing is held.
  void start() { first = last = std::numeric_limits<int64_t>::min() / 2; }
  void clear_row(int64_t r) const {
    for (int64_t c = 0; c < channels; ++c) std::fill_n(row(c, r), grid.wide(), Acc(0));
  }
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
