// What norm_act_conv's products read, made in shared memory once for all taps.
//
//     Activation      leaky_relu(x * scale + shift), the padding's zeros or reflection included
//     OutputGradient  dy' = dy + dmean / n + 2 (y - mean) dvar / n, and the slots of what folds; kept in memory too, where
//                     the gradient of the weight will read it
//     KeptGradient    what OutputGradient or norm_act_conv_sums2x2.cuh has kept
//
// A thread has one octet of channels of every so-many-th pixel, whose parameters it reads once; threads that are left over,
// where octets do not divide a block, have none. Several loads are under way before the first is used.
#pragma once

#include "cuda/async.h"
#include "cuda/norm_act_conv_products.cuh"

namespace aminet::nac {

// Where a window begins in what is read. shift: from a row that a window reads to its place there.
struct Corner {
  int row, column;

  __device__ __forceinline__ Corner(const Geometry& g, const Place& at, int shift = 0)
      : row(g.rows.step * at.row + g.rows.first + shift), column(g.columns.step * at.column + g.columns.first + shift) {}
};

__device__ __forceinline__ bool is_in(int index, int first, int count) {
  return static_cast<unsigned>(index - first) < static_cast<unsigned>(count);
}

template <typename T>
__device__ __forceinline__ T* in_window(unsigned char* window, const Window& w, int row, int column, int octet) {
  const int units = row * w.row + w.column_at(column) * w.pixel + octet * kOctetUnits<T>;
  return reinterpret_cast<T*>(window + units * kUnitBytes);
}

// How much of a window lies in the map, along an axis.
struct Inside {
  int first, count;

  __device__ __forceinline__ Inside(int size, int corner, int extent)
      : first(max(0, -corner)), count(min(extent, size - corner) - first) {}
};

// A thread's pixels of a window, `octet` of each, in the order of the map. Where a pixel lies is found once; from there
// to the next are additions, whatever the border. STEP: the window's.
template <int STEP>
struct Passage {
  const Window& w;
  Inside rows, columns;
  int octet;
  int row, column;  // from the first in the map on
  int bytes;        // of the place in the window, were its columns in order
  int offset;       // in the image that is read, elements; of no use outside

  __device__ __forceinline__ Passage(const Window& of, const Map& map, const Corner& corner, int units)
      : w(of), rows(map.rows, corner.row, w.rows), columns(map.columns, corner.column, w.columns) {
    const int thread = thread_anew(), first = over(thread, w.inverse_octets);
    octet = first < w.together ? thread - first * w.octets : w.octets;  // a thread that is left over has none
    row = over(first, w.inverse_columns);
    column = first - row * w.columns;
    bytes = (row * w.row + column * w.pixel + octet * units) * kUnitBytes;
    offset = ((corner.row + row) * map.pitch + corner.column + column) * map.channels;
    row -= rows.first, column -= columns.first;
  }
  // Whether this pixel, or one of the next, is of the window; and of the map.
  __device__ __forceinline__ bool goes_on() const { return row < w.rows - rows.first; }
  __device__ __forceinline__ bool goes_on_inside() const { return row < rows.count; }

  __device__ __forceinline__ bool inside() const { return is_in(row, 0, rows.count) && is_in(column, 0, columns.count); }
  __device__ __forceinline__ int place() const {
    if constexpr (STEP == 1) return bytes;
    const int c = column + columns.first;
    return bytes + ((c & 1) * w.half - ((c + 1) >> 1)) * w.pixel * kUnitBytes;
  }
  __device__ __forceinline__ bool at_border() const { return rows.count < w.rows || columns.count < w.columns; }
  __device__ __forceinline__ void next() {
    row += w.rows_on, column += w.columns_on, bytes += w.bytes_on, offset += w.offset_on;
    if (column >= w.columns - columns.first)
      column -= w.columns, bytes += w.bytes_wrapped, offset += w.offset_wrapped, ++row;
  }
};

// The pixels of a window outside of the map: whole rows first, then what is beside the others.
struct Outside {
  Inside rows, columns;
  int of_row, inverse;  // pixels of a whole row
  int whole, beside, pixels;

  __device__ __forceinline__ Outside(const Window& w, const Map& map, const Corner& corner)
      : rows(map.rows, corner.row, w.rows),
        columns(map.columns, corner.column, w.columns),
        of_row(w.columns),
        inverse(w.inverse_columns),
        whole((w.rows - rows.count) * w.columns),
        beside(w.columns - columns.count),
        pixels(whole + rows.count * beside) {}

  __device__ __forceinline__ void find(int number, int& row, int& column) const {
    if (number < whole) {
      row = over(number, inverse);
      column = number - row * of_row;
      if (row >= rows.first) row += rows.count;
    } else {
      row = (number - whole) / beside;
      column = number - whole - row * beside;
      row += rows.first;
      if (column >= columns.first) column += columns.count;
    }
  }
};

template <typename T>
struct Activation {
  const T* x;  // [N, H, W, channels]
  const float *scale, *shift;
  float slope;
  int channels;

  // In place, of channels whose scale and shift these are. The larger of v and slope v is leaky_relu for slopes up to 1.
  __device__ __forceinline__ void apply(Octet<T>& values, const float (&by)[kOctet], const float (&add)[kOctet]) const {
    float v[kOctet];
    values.widen_to(v);
    const bool larger = slope <= 1.f;
#pragma unroll
    for (int j = 0; j < kOctet; ++j) {
      v[j] = __fmaf_rn(v[j], by[j], add[j]);
      v[j] = larger ? fmaxf(v[j], v[j] * slope) : fminf(v[j], v[j] * slope);
    }
    values.narrow_from(v);
  }

  __host__ __device__ Map map(const Geometry& g) const { return map_of(g, channels); }

  // Octets from `first` on, `count` of them, of a block's window.
  __device__ __forceinline__ void make(unsigned char* window, const Geometry& g, const Window& w, const Place& at,
                                       int first, int count, bool /* once */, int /* height */, int /* width */) const {
    make_of<sizeof(T) == 2 ? 4 : 2>(window, g, w, at, first, count);
  }

  // BATCH: pixels at a time.
  template <int BATCH>
  __device__ __forceinline__ void make_of(unsigned char* window, const Geometry& g, const Window& w, const Place& at,
                                          int first, int count) const {
    if (w.step == 1)
      make_by<BATCH, 1>(window, g, w, at, first, count);
    else
      make_by<BATCH, 2>(window, g, w, at, first, count);
  }

  template <int BATCH, int STEP>
  __device__ __forceinline__ void make_by(unsigned char* window, const Geometry& g, const Window& w, const Place& at,
                                          int first, int count) const {
    const Corner corner(g, at);
    Passage<STEP> passage(w, map(g), corner, kOctetUnits<T>);
    if (passage.octet >= count) return;
    const int channel = (first + passage.octet) * kOctet;
    float by[kOctet], add[kOctet];
    read_octet(by, scale + channel);
    read_octet(add, shift + channel);
    const T* image = x + static_cast<int64_t>(at.image) * g.rows.from * g.columns.from * channels + channel;
#pragma unroll 1
    while (passage.goes_on_inside()) {
      Octet<T> values[BATCH];
      int to[BATCH];  // bytes
      bool inside[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; ++i, passage.next()) {
        inside[i] = passage.inside();
        to[i] = passage.place();
        values[i].read(image + (inside[i] ? passage.offset : 0));
      }
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        apply(values[i], by, add);
        if (inside[i]) values[i].write(reinterpret_cast<T*>(window + to[i]));
      }
    }
    if (passage.at_border()) make_outside(window, image, by, add, g, w, corner, passage.octet);
  }

  // Where a row of the window comes from, kNowhere if from nowhere. Beyond the next one they are not read.
  __device__ __forceinline__ static int source(const Axis& a, int row) {
    return row < 0 ? a.low : row < a.from ? row : a.high;
  }

  // What lies outside of the map: reflected, or zeros, which come after the activation.
  __device__ __forceinline__ void make_outside(unsigned char* window, const T* image, const float (&by)[kOctet],
                                               const float (&add)[kOctet], const Geometry& g, const Window& w,
                                               const Corner& corner, int octet) const {
    const Outside outside(w, map(g), corner);
#pragma unroll 1
    for (int i = over(thread_anew(), w.inverse_octets); i < outside.pixels; i += w.together) {
      int row, column;
      outside.find(i, row, column);
      const int from_row = source(g.rows, corner.row + row), from_column = source(g.columns, corner.column + column);
      Octet<T> values;
      values.clear();
      if (from_row >= 0 && from_column >= 0) {
        values.read(image + (from_row * g.columns.from + from_column) * channels);
        apply(values, by, add);
      }
      values.write(in_window<T>(window, w, row, column, octet));
    }
  }
};

// dy' of one image at an octet of channels: dy + first + second * y.
template <typename T>
struct Incoming {
  const T *dy, *y;  // of the image's first pixel; y is null where nothing comes through the moments
  float first[kOctet], second[kOctet];

  __device__ __forceinline__ void add(float (&sum)[kOctet], const Octet<T>& of_dy, const Octet<T>& of_y) const {
    float v[kOctet];
    of_dy.widen_to(v);
#pragma unroll
    for (int j = 0; j < kOctet; ++j) sum[j] += v[j];
    if (!y) return;
    of_y.widen_to(v);
#pragma unroll
    for (int j = 0; j < kOctet; ++j) sum[j] += __fmaf_rn(v[j], second[j], first[j]);
  }
};

template <typename T>
struct OutputGradient {
  const T *dy, *y;  // [N, H', W', channels]
  const float *mean, *dmean, *dvar;
  float inverse;  // 1 / n
  int channels;
  T* keep;  // null where nothing is to be kept
  Kept kept;

  __device__ __forceinline__ Incoming<T> incoming(const Geometry& g, int image, int octet) const {
    const int channel = octet * kOctet;
    const int64_t from = static_cast<int64_t>(image) * g.rows.from * g.columns.from * channels + channel;
    Incoming<T> found = {dy + from, y ? y + from : nullptr, {}, {}};
    if (!y) return found;
    float means[kOctet];
    read_octet(means, mean + channel);
    read_octet(found.first, dmean + channel);
    read_octet(found.second, dvar + channel);
#pragma unroll
    for (int j = 0; j < kOctet; ++j) {
      found.second[j] *= 2.f * inverse;
      found.first[j] = found.first[j] * inverse - means[j] * found.second[j];
    }
    return found;
  }

  // What is kept at (row, column), slots among them: the sum of up to three rows of dy and as many columns.
  __device__ Octet<T> summed(const Incoming<T>& from, const Geometry& g, int row, int column) const {
    const Sources rows = sources_of(g.rows, kept.rows, row), columns = sources_of(g.columns, kept.columns, column);
    float sum[kOctet] = {};
#pragma unroll 1
    for (int r = 0; r <= rows.count; ++r)
#pragma unroll 1
      for (int c = 0; c <= columns.count; ++c) {
        const int y_row = r < rows.count ? rows.base + r : rows.extra;
        const int y_column = c < columns.count ? columns.base + c : columns.extra;
        if (y_row < 0 || y_row >= g.rows.from || y_column < 0 || y_column >= g.columns.from) continue;
        const int at = (y_row * g.columns.from + y_column) * channels;
        Octet<T> of_dy, of_y = {};
        of_dy.read(from.dy + at);
        if (from.y) of_y.read(from.y + at);
        from.add(sum, of_dy, of_y);
      }
    Octet<T> found;
    found.narrow_from(sum);
    return found;
  }

  __host__ __device__ Map map(const Geometry& g) const { return map_of(g, channels); }

  // once: whether this is the first time that the block makes these channels. Not for sums of rows.
  __device__ __forceinline__ void make(unsigned char* window, const Geometry& g, const Window& w, const Place& at,
                                       int first, int count, bool once, int height, int width) const {
    const Corner corner(g, at);
    Passage<1> passage(w, map(g), corner, kOctetUnits<T>);
    if (passage.octet >= count) return;
    const Incoming<T> from = incoming(g, at.image, first + passage.octet);
    T* to = keep && once && blockIdx.y == 0
                ? keep + at.image * kept.pixels_of_image() * channels + (first + passage.octet) * kOctet
                : nullptr;
    make_inside(window, from, to, passage, g, height, width);
    if (passage.at_border()) make_zeros(window, g, w, corner, passage.octet);
    if (w.slots && has_folds(g, at, height, width))
      make_slots(window, from, passage.octet, g, w, at, corner, height, width);
  }

  __device__ __forceinline__ void make_inside(unsigned char* window, const Incoming<T>& from, T* to, Passage<1>& passage,
                                              const Geometry& g, int height, int width) const {
    constexpr int kBatch = sizeof(T) == 2 ? 2 : 1;
    // The block's own cells, of which it keeps what it makes.
    const int first_row = -g.rows.first - passage.rows.first, first_column = -g.columns.first - passage.columns.first;
#pragma unroll 1
    while (passage.goes_on_inside()) {
      Octet<T> of_dy[kBatch], of_y[kBatch];
      int place[kBatch], offset[kBatch];
      bool inside[kBatch], own[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i, passage.next()) {
        inside[i] = passage.inside();
        own[i] = to && inside[i] && is_in(passage.row, first_row, height) && is_in(passage.column, first_column, width);
        place[i] = passage.place();
        offset[i] = inside[i] ? passage.offset : 0;
        of_dy[i].read(from.dy + offset[i]);
        if (from.y) of_y[i].read(from.y + offset[i]);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (from.y) {
          float v[kOctet], of[kOctet];
          of_dy[i].widen_to(v);
          of_y[i].widen_to(of);
#pragma unroll
          for (int j = 0; j < kOctet; ++j) v[j] += __fmaf_rn(of[j], from.second[j], from.first[j]);
          of_dy[i].narrow_from(v);
        }
        if (inside[i]) of_dy[i].write(reinterpret_cast<T*>(window + place[i]));
        if (own[i]) of_dy[i].write(to + offset[i]);  // what is kept lies as dy does
      }
    }
  }

  __device__ __forceinline__ void make_zeros(unsigned char* window, const Geometry& g, const Window& w,
                                             const Corner& corner, int octet) const {
    const Outside outside(w, map(g), corner);
    Octet<T> zeros;
    zeros.clear();
#pragma unroll 1
    for (int i = over(thread_anew(), w.inverse_octets); i < outside.pixels; i += w.together) {
      int row, column;
      outside.find(i, row, column);
      zeros.write(in_window<T>(window, w, row, column, octet));
    }
  }

  static constexpr int kUnread = -1;  // a slot of what does not fold in this block

  // Slots of the rows and columns that fold, along all of the window, other slots included.
  __device__ void make_slots(unsigned char* window, const Incoming<T>& from, int octet, const Geometry& g,
                             const Window& w, const Place& at, const Corner& corner, int height, int width) const {
    const int columns = w.columns + w.slots, pixels = (w.rows + w.slots) * columns;
#pragma unroll 1
    for (int i = over(thread_anew(), w.inverse_octets); i < pixels; i += w.together) {
      const int row = i / columns, column = i % columns;
      if (row < w.rows && column < w.columns) continue;
      const int kept_row = kept_by(g.rows, at.row, height, w.rows, kept.rows, corner.row, row);
      const int kept_column = kept_by(g.columns, at.column, width, w.columns, kept.columns, corner.column, column);
      if (kept_row == kUnread || kept_column == kUnread) continue;
      Octet<T> found;
      if (kept_row < 0 || kept_column < 0)
        found.clear();
      else
        found = summed(from, g, kept_row, kept_column);
      found.write(in_window<T>(window, w, row, column, octet));
    }
  }
  // The row of what is kept that a row of the window is, slots included; kNowhere: outside, where zeros are read.
  static __device__ __forceinline__ int kept_by(const Axis& a, int first_cell, int cells, int regular, int kept_rows,
                                                int corner, int index) {
    if (index >= regular)
      return has(a, first_cell, cells, index == regular ? a.fold_low : a.fold_high) ? kept_rows + index - regular
                                                                                    : kUnread;
    const int row = corner + index;
    return row >= 0 && row < a.from ? row : kNowhere;
  }
};

template <typename T>
struct KeptGradient {
  const T* from;  // [N, rows + slots, columns + slots, channels]
  Kept kept;

  __host__ __device__ Map map(const Geometry&) const {
    return {kept.rows, kept.columns, kept.columns + kept.slots, kept.channels};
  }

  // Zeros where it is not inside.
  static __device__ __forceinline__ void copy(T* to, const T* image, unsigned offset, bool inside) {
    const T* source = image + (inside ? offset : 0u);
#pragma unroll
    for (int i = 0; i < kOctetUnits<T>; ++i)
      copy_async<kUnitBytes>(to + i * Octet<T>::kPart, source + i * Octet<T>::kPart, inside);
  }

  // Copies that are under way when it returns; commit_async() and wait_async() are the caller's.
  __device__ __forceinline__ void start(unsigned char* window, const Geometry& g, const Window& w, const Place& at,
                                        int first, int count, int height, int width) const {
    const Corner corner(g, at, kept.shift);
    Passage<2> passage(w, map(g), corner, kOctetUnits<T>);
    if (passage.octet >= count) return;
    const T* image = from + at.image * kept.pixels_of_image() * kept.channels + (first + passage.octet) * kOctet;
#pragma unroll 1
    for (; passage.goes_on(); passage.next())
      copy(reinterpret_cast<T*>(window + passage.place()), image, passage.offset, passage.inside());
    if (w.slots && has_folds(g, at, height, width)) start_slots(window, image, w, corner, passage.octet);
  }

  // Rows of slots, as long as the window with its slots; then what is beside the others.
  __device__ __forceinline__ void start_slots(unsigned char* window, const T* image, const Window& w, const Corner& corner,
                                              int octet) const {
    const int columns = w.columns + w.slots, whole = w.slots * columns, all = whole + w.slots * w.rows;
#pragma unroll 1
    for (int i = over(thread_anew(), w.inverse_octets); i < all; i += w.together) {
      const bool row_slot = i < whole;
      const int row = row_slot ? w.rows + i / columns : (i - whole) / w.slots;
      const int column = row_slot ? i % columns : w.columns + (i - whole) % w.slots;
      const bool column_slot = column >= w.columns;
      const int kept_row = row_slot ? kept.rows + row - w.rows : corner.row + row;
      const int kept_column = column_slot ? kept.columns + column - w.columns : corner.column + column;
      copy(in_window<T>(window, w, row, column, octet), image, kept.at(kept_row, kept_column) * kept.channels,
           (row_slot || is_in(kept_row, 0, kept.rows)) && (column_slot || is_in(kept_column, 0, kept.columns)));
    }
  }
  __device__ __forceinline__ void make(unsigned char* window, const Geometry& g, const Window& w, const Place& at,
                                       int first, int count, bool /* once */, int height, int width) const {
    start(window, g, w, at, first, count, height, width);
    commit_async();
    wait_async<0>();
  }
};

}  // namespace aminet::nac
