// y_k = a * DW_k(x_k) + b_k, and with turned taps dx = a * sum_k DW_k^T(dy_k).
//
// Three kernels of one walk (multiscale_dwconv_tile.cuh): spread (one x, three y), summed (three dy, one dx), and each
// (a block has one branch, its own x and its own y). Weights are registers, scaled by a before the walk.
#pragma once

#include "cuda/multiscale_dwconv_taps.cuh"
#include "cuda/multiscale_dwconv_tile.cuh"

namespace aminet::multiscale {

template <typename T>
struct FilterCall {
  Tiling tiling;
  const T* x[kBranches];
  T* y[kBranches];
  int kernel[kBranches];
  Parameter weight[kBranches], bias[kBranches];  // bias.data may be null
  Parameter scale;                               // data may be null
  bool turned;
};

// Weights of a tile's channels [C, 1, K, K] to shared memory as [channel of tile][tap], 0 for channels that are not.
// K * K is odd, so that lanes, which are channels, meet different banks.
template <typename T, int K>
__device__ __forceinline__ void stage_weights(float* to, const FilterCall<T>& call, int branch, int first) {
  const int count = call.tiling.parts * kLanes * K * K;
  const int64_t from = int64_t(first) * K * K, end = int64_t(call.tiling.channels) * K * K;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int tap = i % (K * K);
    to[call.turned ? i - tap + K * K - 1 - tap : i] = from + i < end ? call.weight[branch].template at<T>(from + i) : 0.f;
  }
}

template <int K>
__device__ __forceinline__ void take_weights(float (&w)[K * K], const float* staged, int channel, float scale) {
#pragma unroll
  for (int tap = 0; tap < K * K; ++tap) w[tap] = staged[channel * K * K + tap] * scale;
}

// The ring of rows of COUNT images: step `at` has row `at` of each.
template <typename T, int P, int COUNT>
struct Ring {
  const FilterCall<T>& call;
  const Place<P>& place;
  const RowCopy<T, P, kReach> copy;
  T* const slots;
  const int size, row;  // elements of a row in shared memory and of an image's
  int filling = 0, taking = 0;

  __device__ __forceinline__ Ring(const FilterCall<T>& c, const Place<P>& p, T* shared)
      : call(c), place(p), copy(c.tiling, p), slots(shared), size(row_elements<P, kReach>(c.tiling.parts)),
        row(c.tiling.width * c.tiling.channels) {}

  // Begins step `at`, if it is before `end`.
  __device__ __forceinline__ void fill(int branch, int at, int end) {
    if (at < end) {
      const int64_t from = (place.image * call.tiling.height + at) * row;
#pragma unroll
      for (int i = 0; i < COUNT; ++i)
        copy(call.tiling, place, slots + (filling * COUNT + i) * size, call.x[branch + i] + from);
    }
    commit_async();
    filling = (filling + 1) % kSlots;
  }

  // The next step's rows, once all threads' copies of it have come.
  __device__ __forceinline__ const T* take() {
    wait_async<kSlots - 2>();
    __syncthreads();
    const T* step = slots + taking * COUNT * size;
    taking = (taking + 1) % kSlots;
    return step;
  }
};

// P pixels of a row of y, which begins at `row`.
template <typename T, int P>
__device__ __forceinline__ void put_row(T* row, const float (&y)[P], const Tiling& t, const Place<P>& place) {
  const int column = place.first_pixel + place.pixel;
  T* to = row + column * t.channels + place.channel;
#pragma unroll
  for (int p = 0; p < P; ++p)
    if (place.channel < t.channels && column + p < t.width) to[p * t.channels] = narrow<T>(y[p]);
}

// The branches of a walk that share their row of x.
template <typename T, int P, int REACH, int... KERNELS>
struct Walk {
  __device__ __forceinline__ void stage(float*, const FilterCall<T>&, int, int) {}
  __device__ __forceinline__ void begin(const float*, const FilterCall<T>&, int, const Place<P>&, float) {}
  template <bool ALL>
  __device__ __forceinline__ void step(const float (&)[P + 2 * REACH], const FilterCall<T>&, int, const Place<P>&, int,
                                       Met<ALL>) {}
};

template <typename T, int P, int REACH, int K, int... REST>
struct Walk<T, P, REACH, K, REST...> {
  float w[K * K], y[K][P], bias;
  Walk<T, P, REACH, REST...> rest;

  __device__ __forceinline__ void stage(float* to, const FilterCall<T>& call, int branch, int first) {
    stage_weights<T, K>(to, call, branch, first);
    rest.stage(to + call.tiling.parts * kLanes * K * K, call, branch + 1, first);
  }

  __device__ __forceinline__ void begin(const float* staged, const FilterCall<T>& call, int branch,
                                        const Place<P>& place, float scale) {
    take_weights<K>(w, staged, place.channel - place.first, scale);
    const bool biased = call.bias[branch].data != nullptr && place.channel < call.tiling.channels;
    bias = biased ? call.bias[branch].template at<T>(place.channel) : 0.f;
#pragma unroll
    for (int j = 0; j < K; ++j)
#pragma unroll
      for (int p = 0; p < P; ++p) y[j][p] = bias;
    rest.begin(staged + call.tiling.parts * kLanes * K * K, call, branch + 1, place, scale);
  }

  // Row `at` of x, and the row of y that is done with it.
  template <bool ALL>
  __device__ __forceinline__ void step(const float (&x)[P + 2 * REACH], const FilterCall<T>& call, int branch,
                                       const Place<P>& place, int at, Met<ALL> met) {
    advance<K, P, REACH>(y, x, w, bias, met);
    const int done = at - K / 2;
    const Tiling& t = call.tiling;
    if (ALL || (done >= place.top && done < place.bottom))
      put_row<T, P>(call.y[branch] + (place.image * t.height + done) * (t.width * t.channels), y[0], t, place);
    rest.step(x, call, branch + 1, place, at, met);
  }
};

template <typename T, int P>
__device__ __forceinline__ float scale_of(const FilterCall<T>& call, const Place<P>& place) {
  const bool scaled = call.scale.data != nullptr && place.channel < call.tiling.channels;
  return scaled ? call.scale.template at<T>(place.image * call.tiling.channels + place.channel) : 1.f;
}

// Branches from `branch` on, which share x.
template <typename T, int P, int REACH, int... KERNELS>
__device__ __forceinline__ void walk(const FilterCall<T>& call, int branch, unsigned char* shared) {
  const Place<P> place(call.tiling, blockIdx.x / call.tiling.slices, blockIdx.x % call.tiling.slices);
  float* staged = reinterpret_cast<float*>(shared);
  constexpr int kTaps = (0 + ... + (KERNELS * KERNELS));
  Ring<T, P, 1> ring(call, place, reinterpret_cast<T*>(staged + call.tiling.parts * kLanes * kTaps));
  const int first = max(place.top - REACH, 0), end = min(place.bottom + REACH, call.tiling.height);
  for (int i = 0; i < kSlots - 1; ++i) ring.fill(branch, first + i, end);
  Walk<T, P, REACH, KERNELS...> branches;
  branches.stage(staged, call, branch, place.first);
  __syncthreads();
  branches.begin(staged, call, branch, place, scale_of(call, place));
  const int own = place.template in_row<kReach>();
  for (int at = first; at < place.bottom + REACH; ++at) {  // below the image nothing comes, but rows of y are done
    const T* step = ring.take();
    ring.fill(branch, at + kSlots - 1, end);
    float x[P + 2 * REACH];
    load_window<P, REACH, kLanes>(x, step + own);
    if (at - REACH >= place.top && at + REACH < place.bottom)
      branches.step(x, call, branch, place, at, Met<true>{});
    else
      branches.step(x, call, branch, place, at, Met<false>{rows_met(at, place.top, place.bottom, call.tiling.height)});
  }
}

constexpr int kSpreadPixels = 2, kSummedPixels = 4, kEachPixels = 4;

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) spread(FilterCall<T> call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  walk<T, kSpreadPixels, kReach, 3, 5, 7>(call, 0, shared);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) each(FilterCall<T> call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  const int branch = blockIdx.y;
  switch (call.kernel[branch]) {
    case 3: return walk<T, kEachPixels, 1, 3>(call, branch, shared);
    case 5: return walk<T, kEachPixels, 2, 5>(call, branch, shared);
    default: return walk<T, kEachPixels, 3, 7>(call, branch, shared);
  }
}

// A row of each dy into the P pixels' K rows of dx.
template <typename T, int P, bool ALL>
__device__ __forceinline__ void sum_rows(float (&y)[7][P], const T* step, int size, const float (&w3)[9],
                                         const float (&w5)[25], const float (&w7)[49], Met<ALL> met) {
  float x7[P + 6], x5[P + 4], x3[P + 2];
  load_window<P, 3, kLanes>(x7, step + 2 * size);
  advance<7, P, 3>(y, x7, w7, 0.f, met);
  load_window<P, 2, kLanes>(x5, step + size);
  add_row<5, P, 2, 7>(y, x5, w5, met);
  load_window<P, 1, kLanes>(x3, step);
  add_row<3, P, 1, 7>(y, x3, w3, met);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) summed(FilterCall<T> call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int P = kSummedPixels;
  const Tiling& t = call.tiling;
  const Place<P> place(t, blockIdx.x / t.slices, blockIdx.x % t.slices);
  const int channels = t.parts * kLanes, channel = place.channel - place.first;
  float* staged = reinterpret_cast<float*>(shared);
  Ring<T, P, kBranches> ring(call, place, reinterpret_cast<T*>(staged + channels * 83));
  const int first = max(place.top - kReach, 0), end = min(place.bottom + kReach, t.height);
  for (int i = 0; i < kSlots - 1; ++i) ring.fill(0, first + i, end);
  stage_weights<T, 3>(staged, call, 0, place.first);
  stage_weights<T, 5>(staged + channels * 9, call, 1, place.first);
  stage_weights<T, 7>(staged + channels * 34, call, 2, place.first);
  __syncthreads();
  float w3[9], w5[25], w7[49], y[7][P] = {};
  const float scale = scale_of(call, place);
  take_weights<3>(w3, staged, channel, scale);
  take_weights<5>(w5, staged + channels * 9, channel, scale);
  take_weights<7>(w7, staged + channels * 34, channel, scale);
  const int own = place.template in_row<kReach>();
  for (int at = first; at < place.bottom + kReach; ++at) {
    const T* step = ring.take() + own;
    ring.fill(0, at + kSlots - 1, end);
    if (at - kReach >= place.top && at + kReach < place.bottom)
      sum_rows<T, P>(y, step, ring.size, w3, w5, w7, Met<true>{});
    else
      sum_rows<T, P>(y, step, ring.size, w3, w5, w7, Met<false>{rows_met(at, place.top, place.bottom, t.height)});
    const int done = at - kReach;
    if (done >= place.top) put_row<T, P>(call.y[0] + (place.image * t.height + done) * (t.width * t.channels), y[0], t, place);
  }
}

}  // namespace aminet::multiscale
