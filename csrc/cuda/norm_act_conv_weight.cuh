// dW[tap][one's channel][other's channel] = sum over pixels of one's windows times the other's values, on tensor cores:
// norm_act_conv's gradient of its weight, in parts that norm_act_conv_sums.cuh adds up.
//
//                  windows, with a halo          values, without one
//     stride 1, 2  the activation at y's taps    dy' of y's pixel
//     nearest x2   sums of dy' at dx's taps      the activation of x's pixel
//
// A block keeps the sums for all nine taps of up to 64 channels of the windows and 64 of the values in registers, and goes
// through the tiles of its split. Of each it makes both in shared memory; from there they are read with pixels as the
// product's depth. Rows of a product are two octets of channels, each at a tap of its own, so that 9 taps of 24 channels
// are 13.5 of its heights and take 14.
//
//     shared memory   window as in norm_act_conv_windows.cuh
//                     values [8 x 16 cells][octets, an odd number of units]
//                     what each octet of rows is (make_rows)
//                     where a cell's row, and its column, are read at each of their taps, if some are slots
#pragma once

#include "cuda/norm_act_conv_windows.cuh"

namespace aminet::nac {

constexpr int kTaps = 9;

template <typename P, int MT_, int NT_>
struct WeightShape {
  using T = Data<P>;
  static constexpr int MT = MT_, NT = NT_;  // of a warp: products high, octets of values
  static constexpr int warps = 6, threads = 32 * warps, height = 8, width = 16, cells = height * width;
  static constexpr int most = 2 * MT * warps;  // octets of rows
  static constexpr int row_units = NT * kOctetUnits<T> | 1, row = row_units * kUnitBytes / static_cast<int>(sizeof(T));
  static constexpr int steps = cells / (kDeep<P> * kOctet);
  static constexpr int reads = 3 * (height + width);
};

struct WeightCut {
  int ones, others;    // channels of the windows, and of the values
  int octets, slices;  // of the windows: octets of a slice; how many slices
  int pairs;           // of octets of rows
  int tiles, each;     // tiles of a split
  bool mirrored;       // whether the first tap is the weight's last
};

template <typename S>
int64_t weight_bytes(const Window& w) {
  return (static_cast<int64_t>(w.units()) + S::cells * S::row_units) * kUnitBytes +
         (3 * S::most + S::reads) * static_cast<int64_t>(sizeof(uint32_t));
}

// Of each octet of rows: from a cell's window to it, in bytes; that in parts, row of taps, column, unit; and
// tap * channels + its first channel, -1 where there is none.
template <typename S>
__device__ __forceinline__ void make_rows(int* offsets, int* parts, int* rows, const Geometry& g, const Window& w,
                                          const WeightCut& cut, int first_octet) {
  for (int i = threadIdx.x; i < S::most; i += S::threads) {
    const int tap = i / cut.octets, octet = i % cut.octets;
    const bool there = tap < kTaps && (first_octet + octet) * kOctet < cut.ones;
    const int u = there ? tap / 3 : 0, v = there ? tap % 3 : 0;
    const int unit = (there ? octet : 0) * kOctetUnits<typename S::T>;
    offsets[i] = static_cast<int>(entry_of(g, w, 0, 0, u, v, unit) & 0xffff) * kUnitBytes;
    parts[i] = unit << 4 | u << 2 | v;
    rows[i] = there ? (cut.mirrored ? kTaps - 1 - tap : tap) * cut.ones + (first_octet + octet) * kOctet : -1;
  }
}

// The pixels that values are of: act(x * scale + shift), zeros outside of the image and beyond the last channel.
template <typename S, typename T>
__device__ __forceinline__ void make_values(T* values, const Activation<T>& source, const Geometry& g, const Place& at,
                                            int first) {
  constexpr int kBatch = 2, step = S::threads / S::NT;
  const int octet = threadIdx.x % S::NT, channel = first + octet * kOctet;
  if (static_cast<int>(threadIdx.x) / S::NT >= step) return;
  float by[kOctet] = {}, add[kOctet] = {};
  if (channel < source.channels) {
    read_octet(by, source.scale + channel);
    read_octet(add, source.shift + channel);
  }
  const T* image = source.x + static_cast<int64_t>(at.image) * g.rows.to * g.columns.to * source.channels + channel;
#pragma unroll 1
  for (int i = threadIdx.x / S::NT; i < S::cells; i += kBatch * step) {
    Octet<T> read[kBatch];
    bool inside[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int cell = i + j * step, row = at.row + cell / S::width, column = at.column + cell % S::width;
      inside[j] = cell < S::cells && row < g.rows.to && column < g.columns.to && channel < source.channels;
      if (inside[j]) read[j].read(image + (row * g.columns.to + column) * source.channels);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int cell = i + j * step;
      if (cell >= S::cells) continue;
      if (inside[j])
        source.apply(read[j], by, add);
      else
        read[j].clear();
      read[j].write(values + cell * S::row + octet * kOctet);
    }
  }
}
template <typename S, typename T>
__device__ __forceinline__ void make_values(T* values, const KeptGradient<T>& source, const Geometry& g, const Place& at,
                                            int first) {
  constexpr int step = S::threads / S::NT;
  const int octet = threadIdx.x % S::NT, channel = first + octet * kOctet;
  if (static_cast<int>(threadIdx.x) / S::NT >= step) return;
  const T* image = source.from + at.image * source.kept.pixels_of_image() * source.kept.channels + channel;
#pragma unroll 2
  for (int cell = threadIdx.x / S::NT; cell < S::cells; cell += step) {
    const int row = at.row + cell / S::width, column = at.column + cell % S::width;
    source.copy(values + cell * S::row + octet * kOctet, image, row, column,
                row < g.rows.to && column < g.columns.to && channel < source.kept.channels);
  }
}

template <typename T>
__device__ __forceinline__ void make_windows(unsigned char* window, const Activation<T>& source, const Geometry& g,
                                             const Window& w, const Place& at, int first, int count, int, int) {
  source.template make_of<2>(window, g, w, at, first, count);
}
template <typename T>
__device__ __forceinline__ void make_windows(unsigned char* window, const KeptGradient<T>& source, const Geometry& g,
                                             const Window& w, const Place& at, int first, int count, int height,
                                             int width) {
  source.start(window, g, w, at, first, count, height, width);
}

// Where each row of cells is read at each of its three taps, then each column, in units.
template <typename S>
__device__ __forceinline__ void make_reads(int* reads, const Geometry& g, const Window& w, const Place& at) {
  const Folds folds(g, w, at);
  for (int i = threadIdx.x; i < S::reads; i += S::threads) {
    const bool column = i >= 3 * S::height;
    const int n = column ? i - 3 * S::height : i, cell = n / 3, tap = n % 3;
    if (column)
      reads[i] = cell * w.pixel + w.column_at(tap) * w.pixel +
                 folds.of(kNowhere - 1, at.column + cell, tap == 2 ? kLastColumn : tap == 0 ? kFirstColumn : 0);
    else
      reads[i] = w.step * cell * w.row + tap * w.row +
                 folds.of(at.row + cell, kNowhere - 1, tap == 2 ? kLastRow : tap == 0 ? kFirstRow : 0);
  }
}

template <typename P, typename S>
struct WeightProducts {
  using T = Data<P>;
  float acc[S::MT][S::NT][4];
  int first, count;  // pairs of octets that are this warp's rows

  __device__ __forceinline__ void begin(int pairs) {
    const int each = ceil_div(pairs, S::warps);
    first = threadIdx.x / 32 * each;
    count = max(0, min(each, pairs - first));
#pragma unroll
    for (int i = 0; i < S::MT * S::NT * 4; ++i) acc[i / (S::NT * 4)][i / 4 % S::NT][i % 4] = 0.f;
  }

  // One tile of the block, with the first two tables of make_rows. SLOTS: whether some of its cells read slots; reads:
  // where all are, then.
  template <bool SLOTS>
  __device__ __forceinline__ void tile(const unsigned char* window, const T* values, const int* offsets,
                                       const int* parts, const int* reads, const Window& w) {
    const int lane = threadIdx.x % 32, own = 2 * first + (kDeep<P> == 2 ? lane / 8 % 2 : 0);
    offsets += own, parts += own;
    if constexpr (kDeep<P> == 2 && !SLOTS) window += (w.step * (lane / 16) * w.row + lane % 8 * w.pixel) * kUnitBytes;
    const int down = w.step * kDeep<P> * w.row * kUnitBytes, across = 8 * w.pixel * kUnitBytes;
    // From where a lane reads a cell's window at octet i of its rows.
    const auto read_at = [&](int r, int c, int i) {
      const int part = parts[i];
      const int units = reads[r * 3 + (part >> 2 & 3)] + reads[3 * S::height + c * 3 + (part & 3)] + (part >> 4);
      return window + units * kUnitBytes;
    };
    // Where registers are left, what is the same for all cells waits in them.
    constexpr bool kHeld = kDeep<P> == 2 && !SLOTS && S::MT * S::NT < 24;
    [[maybe_unused]] int held[kHeld ? S::MT : 1];
    if constexpr (kHeld)
#pragma unroll
      for (int m = 0; m < S::MT; ++m) held[m] = offsets[2 * m];
#pragma unroll 1
    for (int row = 0; row < S::height; row += kDeep<P>) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Operand<P, 2> b[S::NT];
        load_columns<P, S::NT>(b, [&](int r) { return values + (half * 8 + r / 8 * S::width + r % 8) * S::row; });
#pragma unroll
        for (int m = 0; m < S::MT; ++m) {
          if (m >= count) break;
          Operand<P, 4> a;
          if constexpr (kDeep<P> == 2) {
            uint32_t bits[4];
            load_matrices<4, true>(bits, SLOTS ? read_at(row + lane / 16, half * 8 + lane % 8, 2 * m)
                                               : window + half * across + (kHeld ? held[kHeld ? m : 0] : offsets[2 * m]));
#pragma unroll
            for (int i = 0; i < 4; ++i) a.take(i, bits[i]);
          } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int cell = half * 8 + lane % 4 + i / 2 * 4;
              const unsigned char* at = SLOTS ? read_at(row, cell, 2 * m + i % 2)
                                              : window + cell * w.pixel * kUnitBytes + offsets[2 * m + i % 2];
              a.take(i, __float_as_uint(reinterpret_cast<const float*>(at)[lane / 4]));
            }
          }
#pragma unroll
          for (int j = 0; j < S::NT; ++j) multiply<P>(acc[m][j], a, b[j]);
        }
      }
      values += kDeep<P> * S::width * S::row;
      if constexpr (!SLOTS) window += down;
    }
  }
};

// Blocks: splits; slices of values, each of slices of windows. partial [splits][9][ones][others]
template <typename P, typename S, typename Windows, typename Values>
__global__ void __launch_bounds__(S::threads, sizeof(Data<P>) == 2 ? 2 : 1)
    weight_kernel(Windows one, Values other, float* partial, Geometry g, Window w, WeightCut cut) {
  using T = Data<P>;
  constexpr bool kSlots = std::is_same_v<Windows, KeptGradient<T>>;
  AMINET_DYNAMIC_SHARED(unsigned char, window);
  T* values = reinterpret_cast<T*>(window + w.units() * kUnitBytes);
  int* offsets = reinterpret_cast<int*>(values + S::cells * S::row);
  int *parts = offsets + S::most, *rows = parts + S::most, *reads = rows + S::most;
  const int first_octet = blockIdx.y % cut.slices * cut.octets, first_value = blockIdx.y / cut.slices * S::NT * kOctet;
  const int octets = min(cut.octets, cut.ones / kOctet - first_octet);
  make_rows<S>(offsets, parts, rows, g, w, cut, first_octet);
  WeightProducts<P, S> products;
  products.begin(cut.pairs);

  const int last = min(cut.tiles, (static_cast<int>(blockIdx.x) + 1) * cut.each);
  Place at = place_of(g, blockIdx.x * cut.each, S::height, S::width);
  for (int tile = blockIdx.x * cut.each; tile < last; ++tile, go_on(at, g, S::height, S::width)) {
    const bool slots = kSlots && w.slots && has_folds(g, at, S::height, S::width);
    __syncthreads();  // the tile before has been read
    make_windows(window, one, g, w, at, first_octet, octets, S::height, S::width);
    make_values<S>(values, other, g, at, first_value);
    if constexpr (kSlots)
      if (slots) make_reads<S>(reads, g, w, at);
    commit_async();
    wait_async<0>();
    __syncthreads();
    if (slots)
      products.template tile<kSlots>(window, values, offsets, parts, reads, w);
    else
      products.template tile<false>(window, values, offsets, parts, reads, w);
  }

  const int lane = threadIdx.x % 32;
  float* to = partial + blockIdx.x * static_cast<int64_t>(kTaps) * cut.ones * cut.others;
#pragma unroll
  for (int m = 0; m < S::MT; ++m) {
    if (m >= products.count) break;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = rows[2 * (products.first + m) + half];
      if (row < 0) continue;
#pragma unroll
      for (int j = 0; j < S::NT; ++j) {
        const int column = first_value + j * kOctet + lane % 4 * 2;
        if (column < cut.others)
          store(to + static_cast<int64_t>(row + lane / 4) * cut.others + column,
                Vector<float, 2>{products.acc[m][j][2 * half], products.acc[m][j][2 * half + 1]});
      }
    }
  }
}

}  // namespace aminet::nac
