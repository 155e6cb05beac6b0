// made = windows of what is read x weights, on tensor cores: norm_act_conv's forward, and its gradient of x.
//
// A block makes WM * MT groups of 2 x 8 cells (16 x 16 or 8 x 8 cells) of WN * NT * 8 channels. What it reads, with its
// halo, is made in shared memory once for all taps (norm_act_conv_sources.cuh), as many channels at a time as fit; weights
// come past it in a ring. A product's left operand is then two octets of channels at one tap each, of 16 pixels that lie
// anywhere: no tap is padded, 9 taps of 24 channels are 13.5 products deep and take 14.
//
//     shared memory   window [rows + slots][columns + slots][octets, an odd number of units]
//                     ring [3 stages][8 octets of rows, of float 4][columns of the block, an odd number of octets]
//                     entries: what each octet of the depth is, place and row of the weights
//
// Where there are phases, the window serves all of them, one after the other, or each has blocks of its own.
#pragma once

#include <algorithm>

#include "cuda/async.h"
#include "cuda/norm_act_conv_sources.cuh"

namespace aminet::nac {

constexpr int kStages = 3;

template <typename P, int WM_, int WN_, int MT_, int NT_>
struct Shape {
  using T = Data<P>;
  static constexpr int WM = WM_, WN = WN_, MT = MT_, NT = NT_;
  static constexpr int warps = WM * WN, threads = 32 * warps, columns = WN * NT * kOctet;
  static constexpr int width = WM * MT >= 16 ? 16 : 8, height = WM * MT * 16 / width;  // cells
  static constexpr int stage = sizeof(T) == 2 ? 8 : 4;           // octets
  static constexpr int row = (WN * NT | 1) * kOctet;             // elements between rows of weights
  static constexpr int stage_bytes = stage * kOctet * row * static_cast<int>(sizeof(T));
  static constexpr int finish_row = (NT | 1) * kOctet;           // elements between pixels of what a warp made
  // In the ring's place at the end: a group of pixels of each warp, and sums of warps.
  static constexpr int finish_floats = warps * 16 * finish_row, moments_floats = WM * 2 * columns;
  static constexpr int sums_floats = threads * 2 * kOctet;
  static constexpr int room_bytes =
      std::max(finish_floats + moments_floats, sums_floats) * static_cast<int>(sizeof(float));
  static constexpr int ring_bytes = std::max(kStages * stage_bytes, room_bytes);
};

// How a call is cut: channels that are read and made; octets of a chunk; entries of the largest phase's chunk.
struct Cut {
  int depth, made;
  int octets, chunks;
  int entries;
};

template <typename S>
int64_t windows_bytes(const Window& w, const Cut& cut) {
  return static_cast<int64_t>(w.units()) * kUnitBytes + S::ring_bytes + cut.entries * 2 * sizeof(uint32_t);
}

// A cell of the block: of a group's sixteen, the first eight are above the others.
struct Cell {
  int row, column;
};

template <typename S>
__device__ __forceinline__ Cell cell_of(int group, int number) {
  constexpr int across = S::width / 8;
  return {group / across * 2 + number / 8, group % across * 8 + number % 8};
}

template <typename P, typename S>
struct Products {
  float acc[S::MT][S::NT][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < S::MT * S::NT * 4; ++i) acc[i / (S::NT * 4)][i / 4 % S::NT][i % 4] = 0.f;
  }

  // weights: a stage of all columns. folds: whether some of the block's pixels read slots.
  __device__ __forceinline__ void stage(const unsigned char* window, const Data<P>* weights, const uint32_t* entries,
                                        int steps, const Geometry& g, const Window& w, const Place& at, int phase,
                                        bool folds) {
    if (folds)
      multiply_all<true>(window, weights, entries, steps, g, w, at, phase);
    else
      multiply_all<false>(window, weights, entries, steps, g, w, at, phase);
  }

  template <bool FOLDS>
  __device__ __forceinline__ void multiply_all(const unsigned char* window, const Data<P>* weights,
                                               const uint32_t* entries, int steps, const Geometry& g, const Window& w,
                                               const Place& at, int phase) {
    constexpr int across = S::width / 8;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = warp / S::WN * S::MT;
    const Cell mine = cell_of<S>(first, lane % 16);
    window += (w.step * mine.row * w.row + mine.column * w.pixel + (kDeep<P> == 2 ? 0 : lane / 16)) * kUnitBytes;
    weights += warp % S::WN * S::NT * kOctet;
    if constexpr (kDeep<P> == 2) entries += lane / 16;  // half of the depth is another octet, of floats a unit
    int group_at[S::MT];
#pragma unroll
    for (int i = 0; i < S::MT; ++i)
      group_at[i] = (i / across * 2 * w.step * w.row + i % across * 8 * w.pixel) * kUnitBytes;
    [[maybe_unused]] const Folds folding(g, w, at);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      Operand<P, 2> b[S::NT];
      load_columns<P, S::NT>(b, [&](int r) { return weights + r * S::row; });
      weights += kDeep<P> * kOctet * S::row;
      const uint32_t entry = entries[step * kDeep<P>];
      const unsigned char* from = window + (entry & 0xffff) * kUnitBytes;
#pragma unroll
      for (int i = 0; i < S::MT; ++i) {
        int more = group_at[i];
        if constexpr (FOLDS) {
          const Cell cell = cell_of<S>(first + i, lane % 16);
          const int row = g.rows.phases * (at.row + cell.row) + phase / g.columns.phases;
          const int column = g.columns.phases * (at.column + cell.column) + phase % g.columns.phases;
          more += kUnitBytes * folding.of(row, column, entry);
        }
        Operand<P, 4> a;
        load_rows<P>(a, from + more);
#pragma unroll
        for (int j = 0; j < S::NT; ++j) multiply<P>(acc[i][j], a, b[j]);
      }
    }
  }
};

// Sets of weights of the phases before one.
__device__ __forceinline__ int taps_before(const Geometry& g, int phase_h, int phase_w) {
  const int of_row = g.columns.taps_of(0) + (g.columns.phases > 1 ? g.columns.taps_of(1) : 0);
  return (phase_h ? g.rows.taps_of(0) * of_row : 0) + (phase_w ? g.rows.taps_of(phase_h) * g.columns.taps_of(0) : 0);
}

// Entries of a phase: two words each, the window's and the row of the weights, -1 where there is none; rows may be null.
__device__ __forceinline__ void make_entries(uint32_t* entries, int* rows, const Geometry& g, const Window& w,
                                             const Cut& cut, int phase_h, int phase_w, int count, int units) {
  const int taps_w = g.columns.taps_of(phase_w), taps = g.rows.taps_of(phase_h) * taps_w;
  const int before = taps_before(g, phase_h, phase_w);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int tap = over(i, w.inverse_octets), octet = i - tap * w.octets;
    const bool there = tap < taps;
    // What fills a product up reads the phase's first tap, times weights of zero.
    entries[i] = entry_of(g, w, phase_h, phase_w, there ? tap / taps_w : 0, there ? tap % taps_w : 0,
                          there ? octet * units : 0);
    if (rows) rows[i] = there ? (before + tap) * cut.depth + octet * kOctet : -1;
  }
}

// A stage's weights. CHUNKED: rows say where they are; else they lie one after the other, `first_row` up to `last_row`.
template <bool CHUNKED, typename S, typename T>
__device__ __forceinline__ void load_weights(T* to, const T* weights, const int* rows, const Cut& cut, int chunk,
                                             int first_row, int last_row) {
  constexpr int each = kUnitBytes / sizeof(T), units = S::columns / each, copies = S::stage * kOctet * units;
  const int first = blockIdx.y * S::columns;
#pragma unroll
  for (int i = 0; i < ceil_div(copies, S::threads); ++i) {
    const int copy = threadIdx.x + i * S::threads, row = copy / units, column = copy % units * each;
    if (copies % S::threads && copy >= copies) break;
    int from = first_row + row;
    bool there = first + column < cut.made;
    if constexpr (CHUNKED) {
      from = rows[row / kOctet];
      there = there && from >= 0;
      from += chunk * cut.octets * kOctet + row % kOctet;
    } else {
      there = there && from < last_row;
    }
    copy_async<kUnitBytes>(to + row * S::row + column, weights + (there ? from * cut.made + first + column : 0), there);
  }
}

// The ring: weights of a phase, chunk by chunk, stage by stage.
template <bool CHUNKED, typename S, typename T>
struct Stages {
  int octets, count;             // of the phase's chunk: what its depth is; stages
  int next_chunk, next_stage, next_place;  // that is loaded next
  int here;                      // the place of what is multiplied next
  int first_row;                 // of the phase's weights

  __device__ __forceinline__ void begin(unsigned char* ring, const T* weights, uint32_t* entries, int* rows,
                                        const Geometry& g, const Window& w, const Cut& cut, int phase) {
    const int phase_h = phase / g.columns.phases, phase_w = phase % g.columns.phases;
    octets = g.rows.taps_of(phase_h) * g.columns.taps_of(phase_w) * cut.octets;
    count = ceil_div(octets, S::stage);
    next_chunk = next_stage = next_place = here = 0;
    first_row = cut.depth * taps_before(g, phase_h, phase_w);
    make_entries(entries, rows, g, w, cut, phase_h, phase_w, count * S::stage, kOctetUnits<T>);
    __syncthreads();
    for (int i = 0; i < kStages - 1; ++i) load(ring, weights, rows, cut);
  }
  __device__ __forceinline__ void load(unsigned char* ring, const T* weights, const int* rows, const Cut& cut) {
    if (next_chunk < cut.chunks)
      load_weights<CHUNKED, S>(reinterpret_cast<T*>(ring + next_place * S::stage_bytes), weights,
                               rows + next_stage * S::stage, cut, next_chunk,
                               first_row + next_stage * S::stage * kOctet, first_row + octets * kOctet);
    commit_async();
    if (++next_stage == count) next_stage = 0, ++next_chunk;
    if (++next_place == kStages) next_place = 0;
  }
  // The stage that all of the block may read now; one more is on its way.
  __device__ __forceinline__ const T* next(unsigned char* ring, const T* weights, const int* rows, const Cut& cut) {
    wait_async<kStages - 2>();
    __syncthreads();
    load(ring, weights, rows, cut);
    const T* arrived = reinterpret_cast<const T*>(ring + here * S::stage_bytes);
    if (++here == kStages) here = 0;
    return arrived;
  }
};

// Blocks: tiles of all images; groups of channels; phases, or one for all of them. finish: what becomes of the sums.
// CHUNKED: whether the window may have a part of the channels at a time; where it has not, no sums wait in registers while
// it is made.
template <typename P, typename S, int BLOCKS, bool CHUNKED, typename Source, typename Finish>
__global__ void __launch_bounds__(S::threads, BLOCKS)
    windows_kernel(Source source, const Data<P>* weights, Finish finish, Geometry g, Window w, Cut cut) {
  using T = Data<P>;
  AMINET_DYNAMIC_SHARED(unsigned char, window);
  unsigned char* ring = window + w.units() * kUnitBytes;
  uint32_t* entries = reinterpret_cast<uint32_t*>(ring + S::ring_bytes);
  int* rows = reinterpret_cast<int*>(entries + cut.entries);
  const Place at = place_of(g, blockIdx.x, S::height, S::width);
  const bool folds = w.slots && has_folds(g, at, S::height, S::width);
  const int phases = g.rows.phases * g.columns.phases;
  typename Finish::Sums sums = {};

  Stages<CHUNKED, S, T> stages;
  stages.begin(ring, weights, entries, rows, g, w, cut, blockIdx.z);
  if constexpr (!CHUNKED) source.make(window, g, w, at, 0, cut.octets, blockIdx.z == 0, S::height, S::width);
  for (int phase = blockIdx.z; phase < phases; phase += gridDim.z) {
    Products<P, S> products;
    products.clear();
    for (int chunk = 0; chunk < cut.chunks; ++chunk) {
      if constexpr (CHUNKED) {
        if (chunk > 0) __syncthreads();  // the chunk before has been read
        if (phase == static_cast<int>(blockIdx.z) || cut.chunks > 1)
          source.make(window, g, w, at, chunk * cut.octets, cut.octets, phase == 0, S::height, S::width);
      }
      for (int r = 0; r < stages.count; ++r) {
        const T* arrived = stages.next(ring, weights, rows, cut);
        const int steps = ceil_div(min(S::stage, stages.octets - r * S::stage), kDeep<P>);
        products.stage(window, arrived, entries + r * S::stage, steps, g, w, at, phase, folds);
      }
    }
    wait_async<0>();
    __syncthreads();
    finish.template take<P, S>(products, sums, g, at, phase / g.columns.phases, phase % g.columns.phases, ring);
    // It has a barrier before it writes to the ring, which has been read by then.
    if (phase + static_cast<int>(gridDim.z) < phases)
      stages.begin(ring, weights, entries, rows, g, w, cut, phase + gridDim.z);
  }
  __syncthreads();
  finish.template end<S>(sums, ring);
}

}  // namespace aminet::nac
