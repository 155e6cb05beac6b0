// What norm_act_conv's products read, made in shared memory once for all taps.
//
//     Activation      leaky_relu(x * scale + shift), the padding's zeros or reflection included
//     OutputGradient  dy' = dy + dmean / n + 2 (y - mean) dvar / n, and the slots of what folds; kept in memory too, where
//                     the gradient of the weight will read it
//     KeptGradient    what OutputGradient or norm_act_conv_sums2x2.cuh has kept
//
// A thread has one octet of channels of every so-many-th pixel, whose parameters it reads once. Several loads are under
// way before the first is used.
#pragma once

#include "cuda/async.h"
#include "cuda/norm_act_conv_products.cuh"

namespace aminet::nac {

// The pixels of a thread in a window, some apart, in the order in which they lie there.
struct Walk {
  const Steps& steps;
  int row, column_place, octet;
  int place;  // units

  // units: of an octet.
  __device__ __forceinline__ Walk(const Window& w, const Steps& by, int units) : steps(by) {
    const int first = over(threadIdx.x, w.inverse_octets);
    octet = threadIdx.x - first * w.octets;
    row = over(first, steps.inverse);
    column_place = first - row * steps.columns;
    place = row * w.row + column_place * w.pixel + octet * units;
    if ((first + 1) * w.octets > static_cast<int>(blockDim.x)) row = w.rows + w.slots;  // left over: it has none
  }
  // Of the window; slots have their own.
  __device__ __forceinline__ int column(const Window& w) const {
    if (w.step == 1 || column_place >= w.columns) return column_place;
    return column_place < w.half ? 2 * column_place : 2 * (column_place - w.half) + 1;
  }
  __device__ __forceinline__ void next() {
    row += steps.rows_on, column_place += steps.columns_on, place += steps.place_on;
    if (column_place >= steps.columns) column_place -= steps.columns, place += steps.place_wrapped, ++row;
  }
};

// Where a window begins in what is read.
struct Corner {
  int row, column;

  __device__ __forceinline__ Corner(const Geometry& g, const Place& at)
      : row(g.rows.step * at.row + g.rows.first), column(g.columns.step * at.column + g.columns.first) {}
};

__device__ __forceinline__ bool is_in(int index, int first, int count) {
  return static_cast<unsigned>(index - first) < static_cast<unsigned>(count);
}

template <typename T>
__device__ __forceinline__ T* in_window(unsigned char* window, const Window& w, int row, int column, int octet) {
  const int units = row * w.row + w.column_at(column) * w.pixel + octet * kOctetUnits<T>;
  return reinterpret_cast<T*>(window + units * kUnitBytes);
}

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

  // Where a row of the window comes from, kNowhere if from nowhere. Beyond the next one they are not read.
  __device__ __forceinline__ static int source(const Axis& a, int row) {
    return row < 0 ? a.low : row < a.from ? row : a.high;
  }

  template <int BATCH, int STEP>
  __device__ __forceinline__ void make_by(unsigned char* window, const Geometry& g, const Window& w, const Place& at,
                                          int first, int count) const {
    const bool zeros = g.rows.low < 0;
    Walk walk(w, w.regular, kOctetUnits<T>);
    if (walk.octet >= count) return;
    const Corner corner(g, at);
    const int channel = (first + walk.octet) * kOctet;
    float by[kOctet], add[kOctet];
    read_octet(by, scale + channel);
    read_octet(add, shift + channel);
    const T* image = x + static_cast<int64_t>(at.image) * g.rows.from * g.columns.from * channels + channel;
#pragma unroll 1
    while (walk.row < w.rows) {
      Octet<T> values[BATCH];
      int to[BATCH];  // bytes
      bool there[BATCH], inside[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; ++i, walk.next()) {
        const int row = source(g.rows, corner.row + walk.row);
        const int column = source(g.columns, corner.column + (STEP == 1 ? walk.column_place : walk.column(w)));
        there[i] = walk.row < w.rows;
        inside[i] = row >= 0 && column >= 0;
        to[i] = walk.place * kUnitBytes;
        values[i].read(image + (inside[i] ? (row * g.columns.from + column) * channels : 0));
      }
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        apply(values[i], by, add);
        if (zeros && !inside[i]) values[i].clear();  // zero padding comes after the activation
        if (there[i]) values[i].write(reinterpret_cast<T*>(window + to[i]));
      }
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

  // once: whether this is the first time that the block makes these channels. Not for sums of rows.
  __device__ __forceinline__ void make(unsigned char* window, const Geometry& g, const Window& w, const Place& at,
                                       int first, int count, bool once, int height, int width) const {
    Walk walk(w, w.regular, kOctetUnits<T>);
    if (walk.octet >= count) return;
    const Corner corner(g, at);
    const Incoming<T> from = incoming(g, at.image, first + walk.octet);
    T* to = keep && once && blockIdx.y == 0
                ? keep + at.image * kept.pixels_of_image() * channels + (first + walk.octet) * kOctet
                : nullptr;
    make_of(window, from, to, walk, g, w, corner, height, width);
    if (w.slots && has_folds(g, at, height, width))
      make_slots(window, from, walk.octet, g, w, at, corner, height, width);
  }

  __device__ __forceinline__ void make_of(unsigned char* window, const Incoming<T>& from, T* to, Walk& walk,
                                          const Geometry& g, const Window& w, const Corner& corner, int height,
                                          int width) const {
    constexpr int kBatch = sizeof(T) == 2 ? 2 : 1;
#pragma unroll 1
    while (walk.row < w.rows) {
      Octet<T> of_dy[kBatch], of_y[kBatch];
      int place[kBatch], offset[kBatch];
      bool there[kBatch], inside[kBatch], own[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i, walk.next()) {
        const int row = corner.row + walk.row, column = corner.column + walk.column_place;
        there[i] = walk.row < w.rows;
        inside[i] = is_in(row, 0, g.rows.from) && is_in(column, 0, g.columns.from);
        own[i] = inside[i] && is_in(walk.row, -g.rows.first, height) &&
                 is_in(walk.column_place, -g.columns.first, width);
        place[i] = walk.place * kUnitBytes;
        offset[i] = inside[i] ? (row * g.columns.from + column) * channels : 0;
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
        if (!inside[i]) of_dy[i].clear();
        if (there[i]) of_dy[i].write(reinterpret_cast<T*>(window + place[i]));
        if (to && own[i]) of_dy[i].write(to + offset[i]);  // what is kept lies as dy does
      }
    }
  }

  static constexpr int kUnread = -1;  // a slot of what does not fold in this block

  // Slots of the rows and columns that fold, along all of the window, other slots included.
  __device__ void make_slots(unsigned char* window, const Incoming<T>& from, int octet, const Geometry& g,
                             const Window& w, const Place& at, const Corner& corner, int height, int width) const {
    const int columns = w.columns + w.slots, pixels = (w.rows + w.slots) * columns;
#pragma unroll 1
    for (int i = threadIdx.x / w.octets; i < pixels; i += blockDim.x / w.octets) {
      if ((threadIdx.x / w.octets + 1) * w.octets > blockDim.x) break;
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

  __device__ __forceinline__ void copy(T* to, const T* image, int row, int column, bool inside) const {
    const unsigned offset = static_cast<unsigned>(kept.at(row, column)) * static_cast<unsigned>(kept.channels);
    const T* source = image + (inside ? offset : 0u);
#pragma unroll
    for (int i = 0; i < kOctetUnits<T>; ++i)
      copy_async<kUnitBytes>(to + i * Octet<T>::kPart, source + i * Octet<T>::kPart, inside);
  }

  // Copies that are under way when it returns; commit_async() and wait_async() are the caller's.
  __device__ __forceinline__ void start(unsigned char* window, const Geometry& g, const Window& w, const Place& at,
                                        int first, int count, int height, int width) const {
    const bool folds = w.slots && has_folds(g, at, height, width);
    // Columns of slots only where there may be some: the others' places are not read.
    Walk walk(w, folds ? w.all : w.regular, kOctetUnits<T>);
    if (walk.octet >= count) return;
    const T* image = from + at.image * kept.pixels_of_image() * kept.channels + (first + walk.octet) * kOctet;
    const Corner corner(g, at);
    const int rows = folds ? w.rows + w.slots : w.rows;
#pragma unroll 1
    for (; walk.row < rows; walk.next()) {
      const bool row_slot = walk.row >= w.rows, column_slot = walk.column_place >= w.columns;
      const int row = row_slot ? kept.rows + walk.row - w.rows : corner.row + kept.shift + walk.row;
      const int column =
          column_slot ? kept.columns + walk.column_place - w.columns : corner.column + kept.shift + walk.column(w);
      copy(reinterpret_cast<T*>(window + walk.place * kUnitBytes), image, row, column,
           (row_slot || is_in(row, 0, kept.rows)) && (column_slot || is_in(column, 0, kept.columns)));
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
