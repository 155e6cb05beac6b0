// norm_act_conv's convolutions as products over windows, axis by axis; and a block's window in shared memory.
//
// Forward and the gradient of x are both
//     made[phases * q + p] = sum over taps u of w(p, u) * read[step * q + u - before[p]]
//
//                      of    forward: read x, make y                 gradient: read dy, make dx
//     stride 1               taps W0 W1 W2, before 1                 taps W2 W1 W0, before 1
//     stride 2               step 2, the same                        2 phases: W1; W2 W0; before 0
//     after nearest x2       2 phases of 2 taps: W0 W1+W2; W0+W1 W2  step 2, W2 W1 W0, of sums of two rows of dy
//
// The last is exact: the gradient of the small map is the sum over 2x2 of the large one's, and a sum over 2x2 of a
// convolution is the convolution of such sums. It has 9 products for each of the 16 that the forward has.
//
// A reflected border: forward, row -1 comes from `low`, row `from` from `high`. For the gradient, what those rows were
// given goes to rows `fold_low` and `fold_high` of dx: their last, and first, tap reads a slot of the window in the place
// of a row, in which that row and the first, or last, of dy are added. Only blocks with such rows look for slots.
#pragma once

#include "cuda/device.h"

namespace aminet::nac {

constexpr int kNowhere = -9;  // no row is this
constexpr int kOctet = 8;     // channels that products take at a time
constexpr int kUnitBytes = 16;

struct Axis {
  int from, to;         // rows of the map that is read, and of the one that is made
  int cells, phases;    // values of q and of p
  int step;
  int taps[2], before[2];
  int first, extent;    // the least of u - before, and how many there are
  int low, high;
  int fold_low, fold_high;
  bool boxed;           // what is read is the sum of a row and the next

  __host__ __device__ int taps_of(int phase) const { return phase ? taps[1] : taps[0]; }
  __host__ __device__ int before_of(int phase) const { return phase ? before[1] : before[0]; }
};

struct Geometry {
  Axis rows, columns;
  int64_t images;
};

inline int rows_made(int size, int stride, bool upsample) { return ((upsample ? 2 * size : size) - 1) / stride + 1; }

inline Axis forward_axis(int size, int stride, bool reflect, bool upsample) {
  Axis a = {};
  a.from = size;
  a.to = rows_made(size, stride, upsample);
  a.cells = upsample ? size : a.to;
  a.phases = upsample ? 2 : 1;
  a.step = stride;
  for (int p = 0; p < 2; ++p) {
    a.taps[p] = upsample ? 2 : 3;
    a.before[p] = upsample ? 1 - p : 1;
  }
  a.first = -1, a.extent = 3;
  a.low = !reflect ? kNowhere : upsample ? 0 : 1;
  a.high = !reflect ? kNowhere : upsample ? size - 1 : size - 2;
  a.fold_low = a.fold_high = kNowhere;
  return a;
}

inline Axis gradient_axis(int size, int stride, bool reflect, bool upsample) {
  Axis a = {};
  a.from = rows_made(size, stride, upsample);
  a.to = size;
  a.phases = stride;
  a.cells = ceil_div(size, a.phases);
  a.step = upsample ? 2 : 1;
  a.boxed = upsample;
  for (int p = 0; p < 2; ++p) {
    a.taps[p] = stride == 2 ? 1 + p : 3;
    a.before[p] = stride == 2 ? 0 : 1;
  }
  a.first = -a.before[0], a.extent = stride == 2 ? 2 : 3;
  a.low = a.high = kNowhere;
  const bool reaches = upsample || (size - 1) % stride == 0;  // y's last row reads beyond the map
  a.fold_low = !reflect ? kNowhere : upsample ? 0 : 1;
  a.fold_high = !reflect || !reaches ? kNowhere : upsample ? size - 1 : size - 2;
  return a;
}

// n / d for n d < 2^16: a division costs more than what it is for.
__host__ __device__ constexpr int inverse_of(int d) { return 65536 / d + 1; }
__device__ __forceinline__ int over(int n, int inverse) { return n * inverse >> 16; }

// What windows are of, as it lies in memory: pixels of a row are followed by those of the next, `pitch` pixels on.
struct Map {
  int rows, columns, pitch, channels;
};

// What a block reads, pixel by pixel with some channels of each, in units of 16 bytes: `rows` of `columns`, and two slots
// more of each if there may be any. Where the step is 2, columns of one parity lie together: then pixels that a product
// reads are neighbours, and an odd number of units apart, so that they are in banks of their own.
struct Window {
  int rows, columns, half, slots;
  int pixel, row;  // units from one to the next
  int step;
  int octets, inverse_octets;  // of a pixel
  int inverse_columns;
  // How a thread goes through the regular pixels: those of all threads; from one of its own to the next, in bytes of the
  // window and elements of the map.
  int together, rows_on, columns_on;
  int bytes_on, bytes_wrapped;
  int offset_on, offset_wrapped;

  __host__ __device__ int column_at(int c) const { return step == 2 && c < columns ? (c >> 1) + (c & 1) * half : c; }
  __host__ __device__ int units() const { return (rows + slots) * row; }
};

// height, width: cells of a block. octets: of a pixel's channels, of so many units each.
inline Window window_of(const Geometry& g, int height, int width, int octets, int octet_units, int threads, Map map = {}) {
  Window w = {};
  w.step = g.rows.step;
  w.rows = w.step * (height - 1) + g.rows.extent;
  w.columns = w.step * (width - 1) + g.columns.extent;
  w.half = ceil_div(w.columns, 2);
  w.slots = g.rows.fold_low == kNowhere ? 0 : 2;
  w.pixel = octets * octet_units | 1;
  w.row = (w.columns + w.slots) * w.pixel;
  w.octets = octets;
  w.inverse_octets = inverse_of(octets);
  w.inverse_columns = inverse_of(w.columns);
  w.together = threads / octets;
  w.rows_on = w.together / w.columns;
  w.columns_on = w.together % w.columns;
  w.bytes_on = (w.rows_on * w.row + w.columns_on * w.pixel) * kUnitBytes;
  w.bytes_wrapped = (w.row - w.columns * w.pixel) * kUnitBytes;
  w.offset_on = (w.rows_on * map.pitch + w.columns_on) * map.channels;
  w.offset_wrapped = (map.pitch - w.columns) * map.channels;
  return w;
}

inline __host__ __device__ Map map_of(const Geometry& g, int channels) {
  return {g.rows.from, g.columns.from, g.columns.from, channels};
}

// A tile's first cell, and its number.
struct Place {
  int image, row, column, tile;
};

__device__ __forceinline__ Place place_of(const Geometry& g, int tile, int height, int width) {
  const int across = ceil_div(g.columns.cells, width), down = ceil_div(g.rows.cells, height), line = tile / across;
  return {line / down, line % down * height, tile % across * width, tile};
}

// The next tile's.
__device__ __forceinline__ void go_on(Place& at, const Geometry& g, int height, int width) {
  ++at.tile, at.column += width;
  if (at.column < g.columns.cells) return;
  at.column = 0, at.row += height;
  if (at.row >= g.rows.cells) at.row = 0, ++at.image;
}

inline int64_t tiles_of(const Geometry& g, int height, int width) {
  return g.images * ceil_div(g.rows.cells, height) * ceil_div(g.columns.cells, width);
}

// Whether the row of what is made is one of the cells from `first` on; kNowhere is in none.
__device__ __forceinline__ bool has(const Axis& a, int first, int count, int row) {
  const int cell = row >> (a.phases - 1);
  return cell >= first && cell < first + count;
}

__device__ __forceinline__ bool has_folds(const Geometry& g, const Place& at, int height, int width) {
  return has(g.rows, at.row, height, g.rows.fold_low) || has(g.rows, at.row, height, g.rows.fold_high) ||
         has(g.columns, at.column, width, g.columns.fold_low) || has(g.columns, at.column, width, g.columns.fold_high);
}

// What a unit of a product's depth is, eight channels at a tap: its place in the window (units, 16 bits), whether the tap
// is the last or the first of its axis, and, in the upper half, `number`: of the caller.
enum : uint32_t { kLastRow = 1u << 16, kFirstRow = 1u << 17, kLastColumn = 1u << 18, kFirstColumn = 1u << 19 };

__device__ __forceinline__ uint32_t entry_of(const Geometry& g, const Window& w, int phase_h, int phase_w, int u, int v,
                                             int unit) {
  const int row = u - g.rows.before_of(phase_h) - g.rows.first;
  const int column = v - g.columns.before_of(phase_w) - g.columns.first;
  uint32_t entry = static_cast<uint32_t>(row * w.row + w.column_at(column) * w.pixel + unit);
  if (u == g.rows.taps_of(phase_h) - 1) entry |= kLastRow;
  if (u == 0) entry |= kFirstRow;
  if (v == g.columns.taps_of(phase_w) - 1) entry |= kLastColumn;
  if (v == 0) entry |= kFirstColumn;
  return entry;
}

// The rows and columns of a block that fold, and how far from an entry's place they read it, in units.
struct Folds {
  int low_row, high_row, low_column, high_column;
  int to_low_row, to_high_row, to_low_column, to_high_column;

  __device__ __forceinline__ Folds(const Geometry& g, const Window& w, const Place& at)
      : low_row(g.rows.fold_low),
        high_row(g.rows.fold_high),
        low_column(g.columns.fold_low),
        high_column(g.columns.fold_high),
        to_low_row((w.rows - read_by(g.rows, at.row, low_row, true)) * w.row),
        to_high_row((w.rows + 1 - read_by(g.rows, at.row, high_row, false)) * w.row),
        to_low_column((w.columns - w.column_at(read_by(g.columns, at.column, low_column, true))) * w.pixel),
        to_high_column((w.columns + 1 - w.column_at(read_by(g.columns, at.column, high_column, false))) * w.pixel) {}

  // The row of the window that a row's last, or first, tap reads where nothing folds.
  static __device__ __forceinline__ int read_by(const Axis& a, int first_cell, int made, bool last) {
    const int phase = made & (a.phases - 1);
    return a.step * ((made >> (a.phases - 1)) - first_cell) + (last ? a.taps_of(phase) - 1 : 0) - a.before_of(phase) -
           a.first;
  }

  // For the pixel (row, column) of what is made.
  __device__ __forceinline__ int of(int row, int column, uint32_t entry) const {
    int units = 0;
    if ((entry & kLastRow) && row == low_row) units += to_low_row;
    if ((entry & kFirstRow) && row == high_row) units += to_high_row;
    if ((entry & kLastColumn) && column == low_column) units += to_low_column;
    if ((entry & kFirstColumn) && column == high_column) units += to_high_column;
    return units;
  }
};

// The gradient before the moments as it lies in memory: as dy, or, after nearest x2, of sums of two rows, of which there
// is one more than rows of dy, and behind these two rows and two columns of slots, if anything folds.
struct Kept {
  int rows, columns, slots;  // regular ones
  int shift;                 // from a row that a window reads to its place
  int channels;

  __host__ __device__ int64_t pixels_of_image() const {
    return static_cast<int64_t>(rows + slots) * (columns + slots);
  }
  __host__ __device__ int at(int row, int column) const { return row * (columns + slots) + column; }
};

inline Kept kept_of(const Geometry& back, int channels) {
  const int more = back.rows.boxed ? 1 : 0;
  const int slots = back.rows.boxed && back.rows.fold_low != kNowhere ? 2 : 0;
  return {back.rows.from + more, back.columns.from + more, slots, more, channels};
}

// The rows of dy that a row of what is kept sums: `count` from `base` on, and `extra`, kNowhere for none.
struct Sources {
  int base, count, extra;
};

// index: a row of dy, or of sums of two; from `regular` on slots.
__device__ __forceinline__ Sources sources_of(const Axis& a, int regular, int index) {
  const int count = a.boxed ? 2 : 1;
  if (index < regular) return {index - (count - 1), count, kNowhere};
  const bool low = index == regular;
  const int made = low ? a.fold_low : a.fold_high, phase = made & (a.phases - 1);
  const int offset = (low ? a.taps_of(phase) - 1 : 0) - a.before_of(phase);
  return {a.step * (made >> (a.phases - 1)) + offset, count, low ? 0 : a.from - 1};
}

}  // namespace aminet::nac
