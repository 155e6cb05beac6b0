// y_k = a * DW_k(x_k) + b_k, and with turned taps dx = a * sum_k DW_k^T(dy_k).
//
// Three kernels of one walk (rdfe_front_exact_tile.cuh): spread (one x, three y), summed (three dy, one dx), and each
// (a block has one branch, its own x and its own y). Weights are registers, scaled by a before the walk.
#pragma once

#include "cuda/rdfe_front_exact_taps.cuh"
#include "cuda/rdfe_front_exact_tile.cuh"

namespace aminet::rdfe::exact {

// Where a thread's pixels are in an image of y, from the top down.
template <int P>
class Output {
 public:
  __device__ __forceinline__ Output(const Tiling& t, const Place<P>& place, int row) {
    const int column = place.first_pixel + place.pixel;
    at_ = unsigned(row * t.row() + column * t.channels + place.channel) * unsigned(sizeof(float));
#pragma unroll
    for (int p = 0; p < P; ++p) live_[p] = place.channel < t.channels && column + p < t.width;
  }

  // P values to a row `above` the one that this points at.
  __device__ __forceinline__ void put(const Tiling& t, float* image, int above, const float (&y)[P]) const {
    float* const to = image - above * t.row();
    const unsigned pixel = unsigned(t.channels) * unsigned(sizeof(float));
#pragma unroll
    for (int p = 0; p < P; ++p)
      if (live_[p]) *moved(to, at_ + p * pixel) = y[p];
  }

  __device__ __forceinline__ void next_row(const Tiling& t) { at_ += unsigned(t.row()) * unsigned(sizeof(float)); }

 private:
  unsigned at_;
  bool live_[P];
};

struct FilterCall {
  Tiling tiling;
  const float* x[BRANCHES];
  float* y[BRANCHES];
  const float *weight[BRANCHES], *bias[BRANCHES];  // [C, K, K]; [C], or [N, C] with a step of C; may be null
  int bias_step;
  const float* scale;  // [N, C], or null
  bool turned;
};

// Weights of a tile's channels [C, 1, K, K] to shared memory as [channel of tile][tap], 0 for channels that are not.
// K * K is odd, so that lanes, which are channels, meet different banks.
template <int K>
__device__ __forceinline__ void stage_weights(float* to, const FilterCall& call, int branch, int first) {
  const int count = call.tiling.parts * kLanes * K * K;
  const int64_t from = int64_t(first) * K * K, end = int64_t(call.tiling.channels) * K * K;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int tap = i % (K * K);
    const float weight = from + i < end ? call.weight[branch][from + i] : 0.f;
    to[call.turned ? i - tap + K * K - 1 - tap : i] = weight;
  }
}

template <int K>
__device__ __forceinline__ void take_weights(float (&w)[K * K], const float* staged, int channel, float scale) {
#pragma unroll
  for (int tap = 0; tap < K * K; ++tap) w[tap] = staged[channel * K * K + tap] * scale;
}

// The rows of COUNT images in shared memory, some of each a step; a step is [row][image][elements of a row].
template <int P, int COUNT>
class Ring {
 public:
  static constexpr int kRows = kRowsOfStep<P>, kSlots = kStepsOfRing<P>;

  // Rows `first` .. `end` - 1 will come, of images `from`.
  __device__ __forceinline__ Ring(const Tiling& t, const Place<P>& place, const float* const* from, float* shared,
                                  int first, int end)
      : copy_(t, place, first), slots_(shared), end_(end), size(t.margined) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) from_[i] = from[i] + int64_t(place.image) * t.height * t.row();
    clear(slots_, kSlots * kRows * COUNT * size);
    __syncthreads();
    for (int i = 0; i < kSlots - 1; ++i) fill(t, place, first + i * kRows);
  }

  // The step of rows from `at` on, once all threads' copies of them have come; begins another one.
  __device__ __forceinline__ const float* take(const Tiling& t, const Place<P>& place, int at) {
    wait_async<kSlots - 2>();
    __syncthreads();
    fill(t, place, at + (kSlots - 1) * kRows);
    return slots_ + slot_;  // the ring is full: the one to be filled next is the oldest
  }

 private:
  __device__ __forceinline__ void fill(const Tiling& t, const Place<P>& place, int next) {
    float* const to = slots_ + slot_;
    if (t.vectors) {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (next + r < end_) {
#pragma unroll
          for (int i = 0; i < COUNT; ++i) copy_.by_vectors(t, to + (r * COUNT + i) * size, from_[i], r);
        }
    } else {
#pragma unroll 1
      for (int r = 0; r < min(kRows, end_ - next); ++r)
        for (int i = 0; i < COUNT; ++i) copy_.one_by_one(t, place, to + (r * COUNT + i) * size, from_[i], r);
    }
    copy_.next_rows(t, kRows);
    commit_async();
    slot_ = slot_ == (kSlots - 1) * kRows * COUNT * size ? 0 : slot_ + kRows * COUNT * size;
  }

  RowCopy<P, kReach> copy_;
  const float* from_[COUNT];
  float* const slots_;
  int end_, slot_ = 0;

 public:
  const int size;  // elements of a row
};

// The branches of a walk that share their row of x.
template <int P, int REACH, int... KERNELS>
struct Walk {
  __device__ __forceinline__ void stage(float*, const FilterCall&, int, int) {}
  __device__ __forceinline__ void begin(const float*, const FilterCall&, int, const Place<P>&, float) {}
  template <bool ALL>
  __device__ __forceinline__ void step(const float (&)[P + 2 * REACH], const Tiling&, const Place<P>&,
                                       const Output<P>&, int, Met<ALL>) {}
};

template <int P, int REACH, int K, int... REST>
struct Walk<P, REACH, K, REST...> {
  float w[K * K], y[K][P], bias;
  float* image;
  Walk<P, REACH, REST...> rest;

  __device__ __forceinline__ void stage(float* to, const FilterCall& call, int branch, int first) {
    stage_weights<K>(to, call, branch, first);
    rest.stage(to + call.tiling.parts * kLanes * K * K, call, branch + 1, first);
  }

  __device__ __forceinline__ void begin(const float* staged, const FilterCall& call, int branch,
                                        const Place<P>& place, float scale) {
    take_weights<K>(w, staged, place.channel - place.first, scale);
    const bool biased = call.bias[branch] != nullptr && place.channel < call.tiling.channels;
    bias = biased ? call.bias[branch][int64_t(place.image) * call.bias_step + place.channel] : 0.f;
#pragma unroll
    for (int j = 0; j < K; ++j)
#pragma unroll
      for (int p = 0; p < P; ++p) y[j][p] = bias;
    image = call.y[branch] + int64_t(place.image) * call.tiling.height * call.tiling.row();
    rest.begin(staged + call.tiling.parts * kLanes * K * K, call, branch + 1, place, scale);
  }

  // Row `at` of x, at which `out` points, and the row of y that is done with it.
  template <bool ALL>
  __device__ __forceinline__ void step(const float (&x)[P + 2 * REACH], const Tiling& t, const Place<P>& place,
                                       const Output<P>& out, int at, Met<ALL> met) {
    advance<K, P, REACH>(y, x, w, bias, met);
    if (ALL || (at - K / 2 >= place.top && at - K / 2 < place.bottom)) out.put(t, image, K / 2, y[0]);
    rest.step(x, t, place, out, at, met);
  }
};

template <int P>
__device__ __forceinline__ float scale_of(const FilterCall& call, const Place<P>& place) {
  const bool scaled = call.scale != nullptr && place.channel < call.tiling.channels;
  return scaled ? call.scale[int64_t(place.image) * call.tiling.channels + place.channel] : 1.f;
}

// Branches from `branch` on, which share x.
template <int P, int REACH, int... KERNELS>
__device__ __forceinline__ void walk(const FilterCall& call, int branch, unsigned char* shared) {
  const Tiling& t = call.tiling;
  const Place<P> place(t, blockIdx.x / t.slices, blockIdx.x % t.slices);
  float* staged = reinterpret_cast<float*>(shared);
  constexpr int kTaps = (0 + ... + (KERNELS * KERNELS));
  const int first = max(place.top - REACH, 0), end = min(place.bottom + REACH, t.height);
  Ring<P, 1> ring(t, place, call.x + branch, reinterpret_cast<float*>(staged + t.parts * kLanes * kTaps), first, end);
  Walk<P, REACH, KERNELS...> branches;
  branches.stage(staged, call, branch, place.first);
  __syncthreads();
  branches.begin(staged, call, branch, place, scale_of(call, place));
  Output<P> out(t, place, first);
  const int own = place.template in_row<kReach>();
  // Below the image nothing comes, but rows of y are done.
  for (int at = first; at < place.bottom + REACH; at += kRowsOfStep<P>) {
    const float* step = ring.take(t, place, at) + own;
    each_row<REACH>(t, place, at, [&](int r, int row, auto met) {
      float x[P + 2 * REACH];
      load_window<P, REACH, kLanes>(x, step + r * ring.size);
      branches.step(x, t, place, out, row, met);
      out.next_row(t);
    });
  }
}

constexpr int kSpreadPixels = 2, kSummedPixels = 4, kEachPixels = 4;

__global__ void __launch_bounds__(kThreads, 2) spread(FilterCall call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  walk<kSpreadPixels, kReach, 3, 5, 7>(call, 0, shared);
}

__global__ void __launch_bounds__(kThreads, 2) each(FilterCall call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  const int branch = blockIdx.y;
  switch (branch) {
    case 0: return walk<kEachPixels, 1, 3>(call, branch, shared);
    case 1: return walk<kEachPixels, 2, 5>(call, branch, shared);
    default: return walk<kEachPixels, 3, 7>(call, branch, shared);
  }
}

// A row of each dy into the P pixels' rows of dx.
template <int P, bool ALL>
__device__ __forceinline__ void sum_rows(float (&y)[7][P], const float* rows, int size, const float (&w3)[9],
                                         const float (&w5)[25], const float (&w7)[49], Met<ALL> met) {
  float x7[P + 6], x5[P + 4], x3[P + 2];
  load_window<P, 3, kLanes>(x7, rows + 2 * size);
  advance<7, P, 3>(y, x7, w7, 0.f, met);
  load_window<P, 2, kLanes>(x5, rows + size);
  add_row<5, P, 2, 7>(y, x5, w5, met);
  load_window<P, 1, kLanes>(x3, rows);
  add_row<3, P, 1, 7>(y, x3, w3, met);
}

__global__ void __launch_bounds__(kThreads, 2) summed(FilterCall call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int P = kSummedPixels;
  const Tiling& t = call.tiling;
  const Place<P> place(t, blockIdx.x / t.slices, blockIdx.x % t.slices);
  const int channels = t.parts * kLanes, channel = place.channel - place.first;
  float* staged = reinterpret_cast<float*>(shared);
  const int first = max(place.top - kReach, 0), end = min(place.bottom + kReach, t.height);
  Ring<P, BRANCHES> ring(t, place, call.x, reinterpret_cast<float*>(staged + channels * TAPS), first, end);
  stage_weights<3>(staged, call, 0, place.first);
  stage_weights<5>(staged + channels * first_tap(1), call, 1, place.first);
  stage_weights<7>(staged + channels * first_tap(2), call, 2, place.first);
  __syncthreads();
  float w3[9], w5[25], w7[49], y[7][P] = {};
  const float scale = scale_of(call, place);
  take_weights<3>(w3, staged, channel, scale);
  take_weights<5>(w5, staged + channels * first_tap(1), channel, scale);
  take_weights<7>(w7, staged + channels * first_tap(2), channel, scale);
  float* const image = call.y[0] + int64_t(place.image) * t.height * t.row();
  Output<P> out(t, place, first);
  const int own = place.template in_row<kReach>();
  for (int at = first; at < place.bottom + kReach; at += kRowsOfStep<P>) {
    const float* step = ring.take(t, place, at) + own;
    each_row<kReach>(t, place, at, [&](int r, int row, auto met) {
      sum_rows<P>(y, step + r * BRANCHES * ring.size, ring.size, w3, w5, w7, met);
      if (row - kReach >= place.top && row - kReach < place.bottom) out.put(t, image, kReach, y[0]);
      out.next_row(t);
    });
  }
}

}  // namespace aminet::rdfe::exact
