// S[k, tap, c] = sum_p x_k[p + tap, c] dy_k[p, c] and sum_p dy_k, over shares of the images' tiles.
//
// The walk of rdfe_front_exact_filter.cuh with the roles of weights and outputs exchanged: sums are registers all the
// way down, and rows of dy wait in registers for the rows of x that meet them. A share is some tiles of one slice of
// channels, one after the other; which ones follows from shapes alone. At its end the groups of a block are added in
// shared memory, in order, to partial [share][row][channels], rows being the taps of each branch, then its bias.
#pragma once

#include "cuda/rdfe_front_exact_taps.cuh"
#include "cuda/rdfe_front_exact_tile.cuh"

namespace aminet::rdfe::exact {

struct SumsCall {
  Tiling tiling;
  const float* x[BRANCHES];
  const float* dy[BRANCHES];
  // kernel_of, first_partial and PARTIAL_ROWS: as constants the compiler would keep in registers what it makes of them,
  // and on sm_100 there is none left.
  int kernel[BRANCHES], row[BRANCHES], rows;
  float* partial;  // [share][rows][padded], where branch k begins at row[k]
  int padded;
  int inner, shares;  // strips of tiles (over images, bands and strips): runs of `inner`, each in so many shares
};

template <int P, int REACH, int... KERNELS>
struct Correlation {
  static constexpr int kCount = 0;
  __device__ __forceinline__ void begin() {}
  template <bool ALL>
  __device__ __forceinline__ void step(const float (&)[P + 2 * REACH], const float*, int, int, const Place<P>&,
                                       Met<ALL>) {}
  __device__ __forceinline__ void finish(float*, const SumsCall&, int) {}
};

template <int P, int REACH, int K, int... REST>
struct Correlation<P, REACH, K, REST...> {
  float sums[K * K], dy[K][P], total;
  Correlation<P, REACH, REST...> rest;

  __device__ __forceinline__ void begin() {
    total = 0.f;
#pragma unroll
    for (int tap = 0; tap < K * K; ++tap) sums[tap] = 0.f;
    rest.begin();
  }

  // Row `at` of x; `incoming` has row at + K / 2 of dy [pixel][24], of each branch in turn, `size` elements apart.
  template <bool ALL>
  __device__ __forceinline__ void step(const float (&x)[P + 2 * REACH], const float* incoming, int size, int at,
                                       const Place<P>& place, Met<ALL> met) {
    const bool there = ALL || (at + K / 2 >= place.top && at + K / 2 < place.bottom);
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int j = 0; j + 1 < K; ++j) dy[j][p] = dy[j + 1][p];
      dy[K - 1][p] = there ? incoming[p * kLanes] : 0.f;
      total += dy[K - 1][p];
    }
    correlate<K, P, REACH>(sums, x, dy, met);
    rest.step(x, incoming + size, size, at, place, met);
  }

  // Adds the groups that have the same channels; `shared` has room for (K * K + 1) * kThreads.
  __device__ __forceinline__ void finish(float* shared, const SumsCall& call, int branch) {
    __syncthreads();
#pragma unroll
    for (int tap = 0; tap < K * K; ++tap) shared[tap * kThreads + threadIdx.x] = sums[tap];
    shared[K * K * kThreads + threadIdx.x] = total;
    __syncthreads();
    const int parts = call.tiling.parts, channels = parts * kLanes, groups = kGroups / parts;
    const int slice = blockIdx.x % call.tiling.slices, share = blockIdx.x / call.tiling.slices;
    float* to = call.partial + (int64_t(share) * call.rows + call.row[branch]) * call.padded + slice * channels;
    for (int i = threadIdx.x; i < (K * K + 1) * channels; i += kThreads) {
      const int row = i / channels, channel = i % channels;
      const float* from = shared + row * kThreads + channel / kLanes * groups * kLanes + channel % kLanes;
      float sum = 0.f;
      for (int g = 0; g < groups; ++g) sum += from[g * kLanes];
      to[int64_t(row) * call.padded + channel] = sum;
    }
    rest.finish(shared, call, branch + 1);
  }
};

// Elements of a step in shared memory: rows of x with margins, and as many of each dy without.
template <int P>
__host__ __device__ constexpr int step_elements(int parts, int branches) {
  return kRowsOfStep<P> * (row_elements<P, kReach>(parts) + branches * row_elements<P, 0>(parts));
}

// What a thread copies of the rows of COUNT dy: vectors of all of them are shared out, so that one copy serves most.
template <int P, int COUNT>
class GradientCopy {
 public:
  __device__ __forceinline__ GradientCopy(const SumsCall& call, const Place<P>& place, int branch, int row) {
    const Tiling& t = call.tiling;
    const int of_pixel = t.parts * kVectors;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int at = threadIdx.x + i * kThreads, k = at / kOfImage, pixel = at % kOfImage / of_pixel;
      const int vector = at % kOfImage % of_pixel, part = vector / kVectors;
      const int column = place.first_pixel + pixel, channel = place.first + vector * kVector;
      to_[i] = -1;
      if (k < COUNT && column < t.width && channel < t.channels) {
        to_[i] = k * row_elements<P, 0>(t.parts) + (part * place.pixels + pixel) * kLanes + vector % kVectors * kVector;
        ahead_[i] = call.kernel[branch + k] / 2;
        const int64_t rows = int64_t(place.image) * t.height + row + ahead_[i];
        from_[i] = call.dy[branch + k] + rows * t.row() + column * t.channels + channel;
      }
    }
  }

  // Row `at` + K / 2 of each branch, where it is in the band, to shared memory; `below` the rows that are next.
  __device__ __forceinline__ void operator()(const Tiling& t, const Place<P>& place, float* to, int at,
                                             int below) const {
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      if (to_[i] >= 0 && at + ahead_[i] >= place.top && at + ahead_[i] < place.bottom)
        copy_async<16>(to + to_[i], from_[i] + below * t.row(), true);
  }

  __device__ __forceinline__ void next_rows(const Tiling& t, int rows) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) from_[i] += rows * t.row();
  }

 private:
  static constexpr int kVector = 16 / int(sizeof(float)), kVectors = kLanes / kVector;
  static constexpr int kOfImage = row_elements<P, 0>(1) / kVector, kCopies = ceil_div(COUNT * kOfImage, kThreads);

  const float* from_[kCopies];
  int to_[kCopies], ahead_[kCopies];
};

// Row `row` of x, if it is before `end`, and what of dy comes with it, where channels are no whole vectors.
template <int P>
__device__ __forceinline__ void copy_one_by_one(const SumsCall& call, const Place<P>& place, int branch, int count,
                                                float* to, int row, int end) {
  const Tiling& t = call.tiling;
  const int64_t image = int64_t(place.image) * t.height * t.row();
  if (row >= 0 && row < end) RowCopy<P, kReach>(t, place, row).one_by_one(t, place, to, call.x[branch] + image);
  to += t.margined;
#pragma unroll 1
  for (int k = 0; k < count; ++k, to += row_elements<P, 0>(t.parts)) {
    const int there = row + call.kernel[branch + k] / 2;
    if (there >= place.top && there < place.bottom)
      RowCopy<P, 0>(t, place, there).one_by_one(t, place, to, call.dy[branch + k] + image);
  }
}

// The tile of a strip: rows top - REACH .. bottom + REACH of x, where they are in the image, pass by.
template <int P, int REACH, int... KERNELS>
__device__ __forceinline__ void correlate_tile(Correlation<P, REACH, KERNELS...>& branches, const SumsCall& call,
                                               int branch, int strip, float* slots) {
  constexpr int kRows = kRowsOfStep<P>, kSlots = kStepsOfRing<P>, kCount = sizeof...(KERNELS);
  const Tiling& t = call.tiling;
  const Place<P> place(t, strip, blockIdx.x % t.slices);
  const int size_x = t.margined, size_dy = row_elements<P, 0>(t.parts);
  const int size_row = size_x + kCount * size_dy, size = kRows * size_row;
  const int first = place.top - REACH, end = min(place.bottom + REACH, t.height);
  const float* const x = call.x[branch] + int64_t(place.image) * t.height * t.row();
  RowCopy<P, kReach> copy_x(t, place, first);
  GradientCopy<P, kCount> copy_dy(call, place, branch, first);
  int slot = 0;  // that is filled next
  auto fill = [&](int next) {
    float* const to = slots + slot;
    if (t.vectors) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (next + r >= 0 && next + r < end) copy_x.by_vectors(t, to + r * size_row, x, r);
        copy_dy(t, place, to + r * size_row + size_x, next + r, r);
      }
    } else {
      const Place<P> same(t, unseen(strip), blockIdx.x % t.slices);
#pragma unroll 1
      for (int row = next; row < next + kRows; ++row)
        copy_one_by_one<P>(call, same, branch, kCount, to + (row - next) * size_row, row, end);
    }
    copy_x.next_rows(t, kRows);
    copy_dy.next_rows(t, kRows);
    commit_async();
    slot = slot == (kSlots - 1) * size ? 0 : slot + size;
  };
  __syncthreads();  // the tile before is done with
  clear(slots, kSlots * size);
  __syncthreads();
  for (int i = 0; i < kSlots - 1; ++i) fill(first + i * kRows);
  const int own_x = place.template in_row<kReach>(), own_dy = size_x + place.template in_row<0>();
  for (int at = first; at < end; at += kRows) {
    wait_async<kSlots - 2>();
    __syncthreads();
    fill(at + (kSlots - 1) * kRows);
    const float* step = slots + slot;  // the ring is full: the one to be filled next is the oldest
    each_row<REACH>(t, place, at, [&](int r, int row, auto met) {
      float x[P + 2 * REACH];
      load_window<P, REACH, kLanes>(x, step + r * size_row + own_x);
      branches.step(x, step + r * size_row + own_dy, size_dy, row, place, met);
    });
  }
}

// Branches from `branch` on, which share x: one share, of blockIdx.x.
template <int P, int REACH, int... KERNELS>
__device__ __forceinline__ void correlate_share(const SumsCall& call, int branch, unsigned char* shared) {
  const int share = blockIdx.x / call.tiling.slices;
  const int run = share / call.shares, part = share % call.shares;
  const int begin = run * call.inner + int(int64_t(part) * call.inner / call.shares);
  const int end = run * call.inner + int(int64_t(part + 1) * call.inner / call.shares);
  Correlation<P, REACH, KERNELS...> branches;
  branches.begin();
  for (int strip = begin; strip < end; ++strip)
    correlate_tile(branches, call, branch, strip, reinterpret_cast<float*>(shared));
  branches.finish(reinterpret_cast<float*>(shared), call, branch);
}

constexpr int kSharedSumsPixels = 2, kEachSumsPixels = 4;

__global__ void __launch_bounds__(kThreads, 2) sums_of_shared(SumsCall call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  correlate_share<kSharedSumsPixels, kReach, 3, 5, 7>(call, 0, shared);
}

__global__ void __launch_bounds__(kThreads, 2) sums_of_each(SumsCall call) {
  AMINET_DYNAMIC_SHARED(unsigned char, shared);
  const int branch = blockIdx.y;
  switch (branch) {
    case 0: return correlate_share<kEachSumsPixels, 1, 3>(call, branch, shared);
    case 1: return correlate_share<kEachSumsPixels, 2, 5>(call, branch, shared);
    default: return correlate_share<kEachSumsPixels, 3, 7>(call, branch, shared);
  }
}

}  // namespace aminet::rdfe::exact
