// dW[tap][one's channel][other's channel] = sum over pixels of one's windows times the other's values, on tensor cores:
// norm_act_conv's gradient of its weight, in parts that norm_act_conv_sums.cuh adds up.
//
//                  windows, with a halo          values, without one
//     stride 1, 2  the activation at y's taps    dy' of y's pixel
//     nearest x2   sums of dy' at dx's taps      the activation of x's pixel
//
// A block keeps the sums for all nine taps of up to 64 channels of the windows and 64 of the values in registers, and goes
// through the tiles of its split. Of each it makes both in shared memory; from there they are read with 16 cells of a row
// (floats: 8) as the product's depth. A warp's left operands are two octets of channels, each at a column of taps of its
// own: a row of the window is read once for the three taps that have it, and waits in registers between them.
//
//     shared memory   window as in norm_act_conv_windows.cuh
//                     values [8 x 16 cells][octets, an odd number of units]
#pragma once

#include "cuda/norm_act_conv_windows.cuh"

namespace aminet::nac {

constexpr int kTaps = 9;

template <typename P, int PAIRS_, int NT_>
struct WeightShape {
  using T = Data<P>;
  static constexpr int PAIRS = PAIRS_, NT = NT_;  // of a warp: pairs of octets at columns of taps; octets of values
  static constexpr int warps = 6, threads = 32 * warps, height = 8, width = 16, cells = height * width;
  static constexpr int row_units = NT * kOctetUnits<T> | 1, row = row_units * kUnitBytes / static_cast<int>(sizeof(T));
};

struct WeightCut {
  int ones, others;    // channels of the windows, and of the values
  int octets, slices;  // of the windows: octets of a slice; how many slices
  int tiles, each;     // tiles of a split
  bool mirrored;       // whether the first tap is the weight's last
};

template <typename S>
int64_t weight_bytes(const Window& w) {
  return (static_cast<int64_t>(w.units()) + S::cells * S::row_units) * kUnitBytes;
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
#pragma unroll 1
  for (int cell = threadIdx.x / S::NT; cell < S::cells; cell += step) {
    const int row = at.row + cell / S::width, column = at.column + cell % S::width;
    source.copy(values + cell * S::row + octet * kOctet, image, source.kept.at(row, column) * source.kept.channels,
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

// The slots of a tile's window that its rows and columns read, as norm_act_conv_geometry.cuh has them.
struct Slots {
  int low_row, high_row;  // of the tile's cells: those whose last, or first, tap reads a slot
  Folds folds;
  int first_column;

  __device__ __forceinline__ Slots(const Geometry& g, const Window& w, const Place& at)
      : low_row(g.rows.fold_low - at.row), high_row(g.rows.fold_high - at.row), folds(g, w, at), first_column(at.column) {}

  // From where a column of cells is read at a tap to where it is read here, in units.
  __device__ __forceinline__ int of_column(int column, int tap) const {
    return folds.of(kNowhere - 1, first_column + column, tap == 2 ? kLastColumn : tap == 0 ? kFirstColumn : 0);
  }
};

template <typename P, typename S>
struct WeightProducts {
  using T = Data<P>;
  static constexpr int kHalves = kDeep<P> == 2 ? 1 : 2;  // of a row: products' depths
  float acc[3][S::PAIRS][S::NT][4];                      // by row of taps

  __device__ __forceinline__ void clear() { __builtin_memset(acc, 0, sizeof acc); }

  // Of the pairs of a slice, a warp's first and how many it has.
  static __device__ __forceinline__ int first() { return static_cast<int>(threadIdx.x) / 32 * S::PAIRS; }
  static __device__ __forceinline__ int count(const Window& w) {
    return max(0, min(S::PAIRS, ceil_div(3 * w.octets, 2) - first()));
  }

  // Of the pairs' octets in the order of columns of taps: 3 * octets and one more if that is odd, which reads the last.
  static __device__ __forceinline__ int tap_of(int number, const Window& w) {
    return min(over(number, w.inverse_octets), 2);
  }

  // Where a lane reads its operand of a pair in the window's first row, in bytes.
  template <bool SLOTS>
  __device__ __forceinline__ int place_of_lane(int pair, int upper, int column, const Window& w, const Slots& slots) const {
    const int number = 2 * (first() + pair) + upper, tap = tap_of(number, w);
    int units = (column + w.column_at(tap)) * w.pixel + min(number - tap * w.octets, w.octets - 1) * kOctetUnits<T>;
    if constexpr (SLOTS) units += slots.of_column(column, tap);
    return units * kUnitBytes;
  }

  // One tile of the block. STEP: the window's. SLOTS: whether some of the tile's cells read slots.
  template <int STEP, bool SLOTS>
  __device__ __forceinline__ void tile(const unsigned char* window, const T* values, const Window& w, const Slots& slots) {
    const int pairs = count(w);
    if (pairs == S::PAIRS)
      tile_of<STEP, SLOTS, S::PAIRS>(window, values, w, slots);
    else if (pairs == 1)
      tile_of<STEP, SLOTS, 1>(window, values, w, slots);
  }

  // COUNT: pairs.
  template <int STEP, bool SLOTS, int COUNT>
  __device__ __forceinline__ void tile_of(const unsigned char* window, const T* values, const Window& w,
                                          const Slots& slots) {
    static_assert(!SLOTS || STEP == 2, "else rows have been read beyond a slot's");
    const int lane = threadIdx.x % 32, line = w.row * kUnitBytes;
#pragma unroll 1
    for (int half = 0; half < kHalves; ++half) {
      Operand<P, 4> a[3][COUNT];  // of three rows of the window, the next in the place of the one before them
      constexpr int places = kDeep<P> == 2 ? 1 : 4;
      int at[COUNT][places];
#pragma unroll
      for (int p = 0; p < COUNT; ++p)
#pragma unroll
        for (int i = 0; i < places; ++i)
          at[p][i] = kDeep<P> == 2 ? place_of_lane<SLOTS>(p, lane / 8 % 2, lane / 16 * 8 + lane % 8, w, slots)
                                   : place_of_lane<SLOTS>(p, i % 2, half * 8 + lane % 4 + i / 2 * 4, w, slots);
      // bytes: from the row that is read next.
      const auto read = [&](Operand<P, 4>& to, int p, int bytes) {
        if constexpr (kDeep<P> == 2) {
          uint32_t bits[4];
          load_matrices<4, true>(bits, window + at[p][0] + bytes);
#pragma unroll
          for (int i = 0; i < 4; ++i) to.take(i, bits[i]);
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            to.take(i, __float_as_uint(reinterpret_cast<const float*>(window + at[p][i] + bytes)[lane / 4]));
        }
      };
#pragma unroll
      for (int row = 0; row < S::height; ++row) {
        if constexpr (kDeep<P> == 1) __syncwarp();  // nothing of the next row is read before: registers are scarce
        Operand<P, 2> b[S::NT];
        load_columns<P, S::NT>(b, [&](int r) { return values + (row * S::width + half * 8 + r) * S::row; });
#pragma unroll
        for (int u = 0; u < 3; ++u) {
          const int number = STEP * row + u;
#pragma unroll
          for (int p = 0; p < COUNT; ++p) {
            if (row == 0 || u >= 3 - STEP) {
              read(a[number % 3][p], p, 0);
#pragma unroll
              for (int i = 0; i < places; ++i) at[p][i] += line;
            }
            Operand<P, 4> left = a[number % 3][p];
            if (SLOTS && u != 1 && row == (u ? slots.low_row : slots.high_row))
              read(left, p, (w.rows + (u ? 0 : 1) - (number + 1)) * line);
#pragma unroll
            for (int j = 0; j < S::NT; ++j) multiply<P>(acc[u][p][j], left, b[j]);
          }
        }
      }
    }
  }

  // The block's sums, to partial [9][ones][others].
  __device__ __forceinline__ void write(float* partial, const Window& w, const WeightCut& cut, int first_octet,
                                        int first_value) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int p = 0; p < S::PAIRS; ++p)
#pragma unroll
      for (int upper = 0; upper < 2; ++upper) {
        const int number = 2 * (first() + p) + upper, v = tap_of(number, w), octet = first_octet + number - v * w.octets;
        if (p >= count(w) || number >= 3 * w.octets || octet * kOctet >= cut.ones) continue;
#pragma unroll
        for (int u = 0; u < 3; ++u) {
          const int tap = cut.mirrored ? kTaps - 1 - (3 * u + v) : 3 * u + v;
          float* to = partial + (static_cast<int64_t>(tap) * cut.ones + octet * kOctet + lane / 4) * cut.others;
#pragma unroll
          for (int j = 0; j < S::NT; ++j) {
            const int column = first_value + j * kOctet + lane % 4 * 2;
            if (column < cut.others)
              store(to + column, Vector<float, 2>{acc[u][p][j][2 * upper], acc[u][p][j][2 * upper + 1]});
          }
        }
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
  const int first_octet = blockIdx.y % cut.slices * cut.octets, first_value = blockIdx.y / cut.slices * S::NT * kOctet;
  const int octets = min(cut.octets, cut.ones / kOctet - first_octet);
  WeightProducts<P, S> products;
  products.clear();

  const int first_tile = blockIdx.x * cut.each;
  Place at = place_of(g, first_tile, S::height, S::width);
#pragma unroll 1
  for (int left = min(cut.each, cut.tiles - first_tile); left > 0; --left, go_on(at, g, S::height, S::width)) {
    __syncthreads();  // the tile before has been read
    // Copies are on their way while the other is made.
    if constexpr (kSlots) make_windows(window, one, g, w, at, first_octet, octets, S::height, S::width);
    make_values<S>(values, other, g, at, first_value);
    if constexpr (!kSlots) make_windows(window, one, g, w, at, first_octet, octets, S::height, S::width);
    commit_async();
    wait_async<0>();
    __syncthreads();
    const Slots slots(g, w, at);
    if constexpr (kSlots) {
      if (w.slots && has_folds(g, at, S::height, S::width))
        products.template tile<2, true>(window, values, w, slots);
      else
        products.template tile<2, false>(window, values, w, slots);
    } else if (w.step == 1) {
      products.template tile<1, false>(window, values, w, slots);
    } else {
      products.template tile<2, false>(window, values, w, slots);
    }
  }
  products.write(partial + blockIdx.x * static_cast<int64_t>(kTaps) * cut.ones * cut.others, w, cut, first_octet,
                 first_value);
}

}  // namespace aminet::nac
