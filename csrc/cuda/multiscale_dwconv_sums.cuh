// S[k, tap, c] = sum_p x_k[p + tap, c] dy_k[p, c] and sum_p dy_k, over shares of the images' tiles.
//
// The walk of multiscale_dwconv_filter.cuh with the roles of weights and outputs exchanged: sums are registers all the
// way down, and rows of dy wait in registers for the rows of x that meet them. A share is some tiles of one slice of
// channels, one after the other; which ones follows from shapes alone. At its end the groups of a block are added in
// shared memory, in order, to partial [share][row][channels], rows being the taps of each branch, then its bias.
#pragma once

#include "cuda/multiscale_dwconv_taps.cuh"
#include "cuda/multiscale_dwconv_tile.cuh"

namespace aminet::multiscale {

template <typename T>
struct SumsCall {
  Tiling tiling;
  const T* x[kBranches];
  const T* dy[kBranches];
  int kernel[kBranches], row[kBranches];  // row: where branch k begins in partial
  float* partial;
  int rows, padded;         // partial is [share][rows][padded]
  int inner, shares;        // strips of tiles (over images, bands and strips): runs of `inner`, each in so many shares
};

template <typename T, int P, int REACH, int... KERNELS>
struct Correlation {
  static constexpr int kCount = 0;
  __device__ __forceinline__ void begin() {}
  template <bool ALL>
  __device__ __forceinline__ void step(const float (&)[P + 2 * REACH], const T*, int, int, const Place<P>&, Met<ALL>) {}
  __device__ __forceinline__ void finish(float*, const SumsCall<T>&, int, int, const Place<P>&) {}
};

template <typename T, int P, int REACH, int K, int... REST>
struct Correlation<T, P, REACH, K, REST...> {
  float sums[K * K], dy[K][P], total;
  Correlation<T, P, REACH, REST...> rest;

  __device__ __forceinline__ void begin() {
    total = 0.f;
#pragma unroll
    for (int tap = 0; tap < K * K; ++tap) sums[tap] = 0.f;
    rest.begin();
  }

  // Row `at` of x; `incoming` has row at + K / 2 of dy [pixel][24], of each branch in turn, `size` elements apart.
  template <bool ALL>
  __device__ __forceinline__ void step(const float (&x)[P + 2 * REACH], const T* incoming, int size, int at,
                                       const Place<P>& place, Met<ALL> met) {
    const bool there = ALL || (at + K / 2 >= place.top && at + K / 2 < place.bottom);
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int j = 0; j + 1 < K; ++j) dy[j][p] = dy[j + 1][p];
      dy[K - 1][p] = there ? widen(incoming[p * kLanes]) : 0.f;
      total += dy[K - 1][p];
    }
    correlate<K, P, REACH>(sums, x, dy, met);
    rest.step(x, incoming + size, size, at, place, met);
  }

  // Adds the groups that have the same channels; `shared` has room for (K * K + 1) * kThreads.
  __device__ __forceinline__ void finish(float* shared, const SumsCall<T>& call, int branch, int share,
                                         const Place<P>& place) {
    __syncthreads();
#pragma unroll
    for (int tap = 0; tap < K * K; ++tap) shared[tap * kThreads + threadIdx.x] = sums[tap];
    shared[K * K * kThreads + threadIdx.x] = total;
    __syncthreads();
    const int parts = call.tiling.parts, channels = parts * kLanes, groups = kGroups / parts;
    float* to = call.partial + (int64_t(share) * call.rows + call.row[branch]) * call.padded + place.first;
    for (int i = threadIdx.x; i < (K * K + 1) * channels; i += kThreads) {
      const int row = i / channels, channel = i % channels;
      const float* from = shared + row * kThreads + channel / kLanes * groups * kLanes + channel % kLanes;
      float sum = 0.f;
      for (int g = 0; g < groups; ++g) sum += from[g * kLanes];
      to[int64_t(row) * call.padded + channel] = sum;
    }
    rest.finish(shared, call, branch + 1, share, place);
  }
};

// Elements of a step in shared memory: rows of x with margins, and as many of each dy without.
template <int P>
__host__ __device__ constexpr int step_elements(int parts, int branches) {
  return kRowsOfStep<P> * (row_elements<P, kReach>(parts) + branches * row_elements<P, 0>(parts));
}

// One tile: rows top - REACH .. bottom + REACH of x, where they are in the image, pass by.
template <typename T, int P, int REACH, int... KERNELS>
__device__ __forceinline__ void correlate_tile(Correlation<T, P, REACH, KERNELS...>& branches, const SumsCall<T>& call,
                                               int branch, const Place<P>& place, T* slots) {
  constexpr int kCount = sizeof...(KERNELS), kSizes[] = {KERNELS...};
  constexpr int kRows = kRowsOfStep<P>, kSlots = kStepsOfRing<P>;
  const Tiling& t = call.tiling;
  const int size_x = row_elements<P, kReach>(t.parts), size_dy = row_elements<P, 0>(t.parts);
  const int size_row = size_x + kCount * size_dy, size = kRows * size_row;
  const int first = place.top - REACH, end = min(place.bottom + REACH, t.height);
  const int64_t image = int64_t(place.image) * t.height * t.row();
  RowCopy<T, P, kReach> copy_x(t, place, first);
  RowCopy<T, P, 0> copy_dy(t, place, first);
  const T *x = call.x[branch] + image, *dy[kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) dy[k] = call.dy[branch + k] + image;
  int next = first, filling = 0, taking = 0;
  const auto inside = [&](int row, int top, int bottom) { return row >= top && row < bottom; };
  auto fill = [&] {
    T* const to = slots + filling;
    if (t.vectors) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (inside(next + r, 0, end)) copy_x.by_vectors(t, to + r * size_row, x, r);
#pragma unroll
        for (int k = 0; k < kCount; ++k)
          if (inside(next + r + kSizes[k] / 2, place.top, place.bottom))
            copy_dy.by_vectors(t, to + r * size_row + size_x + k * size_dy, dy[k], r + kSizes[k] / 2);
      }
    } else {
#pragma unroll 1
      for (int r = 0; r < kRows; ++r) {
        if (inside(next + r, 0, end)) copy_x.one_by_one(t, place, to + r * size_row, x, r);
#pragma unroll 1
        for (int k = 0; k < kCount; ++k) {
          const int ahead = r + call.kernel[branch + k] / 2;
          if (inside(next + ahead, place.top, place.bottom))
            copy_dy.one_by_one(t, place, to + r * size_row + size_x + k * size_dy, call.dy[branch + k] + image, ahead);
        }
      }
    }
    copy_x.next_row(t, kRows);
    copy_dy.next_row(t, kRows);
    commit_async();
    next += kRows;
    filling = filling == (kSlots - 1) * size ? 0 : filling + size;
  };
  __syncthreads();  // the tile before is done with
  clear(slots, kSlots * size);
  __syncthreads();
  for (int i = 0; i < kSlots - 1; ++i) fill();
  const int own_x = place.template in_row<kReach>(), own_dy = size_x + place.template in_row<0>();
  for (int at = first; at < end; at += kRows) {
    wait_async<kSlots - 2>();
    __syncthreads();
    fill();
    const T* step = slots + taking;
    taking = taking == (kSlots - 1) * size ? 0 : taking + size;
    each_row<REACH>(t, place, at, [&](int r, int row, auto met) {
      float x[P + 2 * REACH];
      load_window<P, REACH, kLanes>(x, step + r * size_row + own_x);
      branches.step(x, step + r * size_row + own_dy, size_dy, row, place, met);
    });
  }
}

// Branches from `branch` on, which share x: one share, of blockIdx.x.
template <typename T, int P, int REACH, int... KERNELS>
__device__ __forceinline__ void correlate_share(const SumsCall<T>& call, int branch, unsigned char* shared) {
  const int slice = blockIdx.x % call.tiling.slices, share = blockIdx.x / call.tiling.slices;
  const int run = share / call.shares, part = share % call.shares;
  const int begin = run * call.inner + int(int64_t(part) * call.inner / call.shares);
  const int end = run * call.inner + int(int64_t(part + 1) * call.inner / call.shares);
  Correlation<T, P, REACH, KERNELS...> branches;
  branches.begin();
  for (int strip = begin; strip < end; ++strip)
    correlate_tile(branches, call, branch, Place<P>(call.tiling, strip, slice), reinterpret_cast<T*>(shared));
  branches.finish(reinterpret_cast<float*>(shared), call, branch, share, Place<P>(call.tiling, begin, slice));
}

constexpr int kSharedSumsPixels = 2, kEachSumsPixels = 4;

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) sums_of_shared(SumsCall<T> call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  correlate_share<T, kSharedSumsPixels, kReach, 3, 5, 7>(call, 0, shared);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) sums_of_each(SumsCall<T> call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  const int branch = blockIdx.y;
  switch (call.kernel[branch]) {
    case 3: return correlate_share<T, kEachSumsPixels, 1, 3>(call, branch, shared);
    case 5: return correlate_share<T, kEachSumsPixels, 2, 5>(call, branch, shared);
    default: return correlate_share<T, kEachSumsPixels, 3, 7>(call, branch, shared);
  }
}

}  // namespace aminet::multiscale
