// How the float32 backward's depthwise passes cut images [N, H, W, C] into tiles, and how a tile's rows come into
// shared memory.
//
// A block of 192 threads is 8 groups of 24 lanes. A lane has one channel and P neighbouring pixels of a row, and walks
// down the rows of a band: what belongs to a channel (83 weights, or 83 sums) stays in registers all the way. The 8
// groups are side by side in one slice of 24 channels (parts = 1), or shared out to 2 or 4 slices, so that narrow
// images fill a block:
//
//   parts = 1    [8 P pixels][24 channels]          parts = 2    [4 P pixels][24] [4 P pixels][24]
//
// A row in shared memory is [part][HALO + pixels + HALO][24], zeros outside the image.
#pragma once

#include "cuda/async.h"
#include "cuda/rdfe_front_exact_taps.cuh"
#include "cuda/rdfe_front_shared.cuh"

namespace aminet::rdfe::exact {

constexpr int kLanes = 24, kGroups = 8, kThreads = kLanes * kGroups;

// Rows of a step, between two barriers, so that its fixed cost is shared by four pixels a thread at least; and steps of
// a ring, of which all but one are under way while one is worked on.
template <int PIXELS>
inline constexpr int kRowsOfStep = PIXELS < 4 ? 2 : 1;
template <int PIXELS>
inline constexpr int kStepsOfRing = PIXELS < 4 ? 3 : 5;

struct Tiling {
  int channels, height, width;
  int parts;   // 1, 2 or 4 slices of 24 channels in a tile
  int slices;  // tiles beside one another in channels
  int strips;  // and in pixels of a row
  int bands;   // and in rows,
  int band;    // of so many
  int margined;  // elements of a row in shared memory with its margins: row_elements<P, kReach>(parts)
  bool vectors;  // rows are whole vectors of 16 bytes at multiples of 16 bytes

  __host__ __device__ int64_t tiles_of_image() const { return int64_t(slices) * strips * bands; }
  __device__ __forceinline__ int row() const { return width * channels; }
};

// A tile, and where a thread is in it.
template <int P>
struct Place {
  int image;
  int top, bottom;         // rows of the band
  int first_pixel, first;  // of the tile: pixel and channel
  int pixels;              // of a part
  int part, pixel, channel;  // of this thread: its pixels are pixel .. pixel + P - 1 of the tile's

  // `strip` counts over images, bands and strips.
  __device__ __forceinline__ Place(const Tiling& t, int strip, int slice) {
    image = strip / (t.strips * t.bands);
    const int in_image = strip % (t.strips * t.bands);
    top = in_image / t.strips * t.band;
    bottom = min(top + t.band, t.height);
    const int per_part = kGroups / t.parts, group = threadIdx.x / kLanes;
    pixels = per_part * P;
    first_pixel = in_image % t.strips * pixels;
    first = slice * t.parts * kLanes;
    part = group / per_part;
    pixel = group % per_part * P;
    channel = first + part * kLanes + threadIdx.x % kLanes;
  }

  // Where this thread's first pixel is in a row in shared memory that has HALO pixels on both sides.
  template <int HALO>
  __device__ __forceinline__ int in_row() const {
    return (part * (pixels + 2 * HALO) + HALO + pixel) * kLanes + threadIdx.x % kLanes;
  }
};

// Elements of a row in shared memory.
template <int P, int HALO>
__host__ __device__ constexpr int row_elements(int parts) {
  return (kGroups * P + 2 * HALO * parts) * kLanes;
}

// Offsets in bytes are unsigned and of 32 bits: beside an address that all threads share they cost one addition.
template <typename T>
__device__ __forceinline__ T* moved(T* from, unsigned bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(from) + bytes);
}

// What a thread copies of every row: worked out once, an addition a row. Rows are asked for from the top down. What
// lies outside the image does so in every row, so that it is zeroed once (clear) and never copied.
template <int P, int HALO>
class RowCopy {
 public:
  static constexpr int kVector = 16 / int(sizeof(float)), kVectors = kLanes / kVector;
  static constexpr int kCopies = ceil_div(row_elements<P, HALO>(4) / kVector, kThreads);

  // `row`: of the image, the first that will be asked for; it may be outside.
  __device__ __forceinline__ RowCopy(const Tiling& t, const Place<P>& place, int row)
      : row_(unsigned(row) * unsigned(t.row()) * unsigned(sizeof(float))) {
    const int wide = place.pixels + 2 * HALO, of_pixel = t.parts * kVectors;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int at = threadIdx.x + i * kThreads, pixel = at / of_pixel, vector = at % of_pixel;
      const int part = vector / kVectors, column = place.first_pixel + pixel - HALO;
      const int channel = place.first + vector * kVector;
      const bool inside = pixel < wide && column >= 0 && column < t.width && channel < t.channels;
      to_[i] = inside ? (part * wide + pixel) * kLanes + vector % kVectors * kVector : -1;
      from_[i] = inside ? unsigned(column * t.channels + channel) * unsigned(sizeof(float)) : 0;
    }
  }

  // The row of an image, or one `below` it, to shared memory: by vectors, or for channels that are none one by one.
  __device__ __forceinline__ void by_vectors(const Tiling& t, float* to, const float* image, int below = 0) const {
    const unsigned row = row_ + unsigned(below) * unsigned(t.row()) * unsigned(sizeof(float));
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      if (to_[i] >= 0) copy_async<16>(to + to_[i], moved(image, row + from_[i]), true);
  }

  __device__ __forceinline__ void one_by_one(const Tiling& t, const Place<P>& place, float* to, const float* image,
                                             int below = 0) const {
    const float* row = moved(image, row_ + unsigned(below) * unsigned(t.row()) * unsigned(sizeof(float)));
    const int wide = place.pixels + 2 * HALO;
#pragma unroll 1
    for (int at = threadIdx.x; at < t.parts * wide * kLanes; at += kThreads) {
      const int lane = at % kLanes, pixel = at / kLanes % wide, part = at / kLanes / wide;
      const int column = place.first_pixel + pixel - HALO, channel = place.first + part * kLanes + lane;
      if (column >= 0 && column < t.width && channel < t.channels) to[at] = row[column * t.channels + channel];
    }
  }

  __device__ __forceinline__ void next_rows(const Tiling& t, int rows) {
    row_ += unsigned(rows) * unsigned(t.row()) * unsigned(sizeof(float));
  }

 private:
  unsigned row_, from_[kCopies];
  int to_[kCopies];
};

// Zeros in shared memory, a multiple of 8 bytes; between barriers.
__device__ __forceinline__ void clear(float* shared, int elements) {
  uint64_t* words = reinterpret_cast<uint64_t*>(shared);
  for (int i = threadIdx.x; i < elements * int(sizeof(float)) / 8; i += kThreads) words[i] = 0;
}

// Calls row(r, at, met) for the rows of a step from `at` on: at once where no row of theirs meets a border of the band.
template <int REACH, int P, typename Row>
__device__ __forceinline__ void each_row(const Tiling& t, const Place<P>& place, int at, Row&& row) {
  constexpr int kRows = kRowsOfStep<P>;
  if (at - REACH >= place.top && at + kRows - 1 + REACH < place.bottom) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) row(r, at + r, Met<true>{});
  } else {
#pragma unroll 1
    for (int r = 0; r < kRows; ++r) row(r, at + r, Met<false>{rows_met(at + r, place.top, place.bottom, t.height)});
  }
}

}  // namespace aminet::rdfe::exact
