// Runs of pixels in the order of the channels that were their maximum, by counting: for skaf_descriptor_parameters.cuh.
#pragma once

#include "cuda/skaf_descriptor.cuh"

namespace aminet::skaf {

constexpr int kSorters = 512;  // threads that sort a run, which is a few times as many pixels

struct alignas(16) Pixel {
  int place;  // in its run
  int row, column;
  float gain;
};

// Pixels of a run: where there are few channels, so few that their windows stay in L1 for all tasks; where there are
// many, enough that a task finds some in each.
inline int run_of(const Convs& convs) { return kSorters * (convs.padded <= 32 ? 1 : convs.padded <= 64 ? 2 : 4); }

// A thread's pixel's channel, and which one of those of its warp it is that have this channel.
struct Rank {
  int key, before, same;

  __device__ __forceinline__ Rank(int of, int keys) : key(of) {
    unsigned equal = 0xffffffffu;
    for (int bit = 1; bit < 2 * keys; bit *= 2) {
      const unsigned set = __ballot_sync(0xffffffffu, key & bit);
      equal &= key & bit ? set : ~set;
    }
    before = __popc(equal & ((1u << threadIdx.x % 32) - 1));
    same = __popc(equal);
  }
};

// Pixels of a run in the order of their channels, in one channel of their numbers; bounds [runs][total + 1].
template <typename T>
__global__ void __launch_bounds__(kSorters)
    sort_kernel(const T* dm, const int* argmax, Pixel* sorted, int* bounds, Image at, int total, int run) {
  AMINET_DYNAMIC_SHARED(int, starts);  // [total + 1]: the pixels that are no more there are last
  const int keys = total + 1, warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = run / 32;
  uint16_t* counts = reinterpret_cast<uint16_t*>(starts + keys);  // [32 pixels each][keys]
  const int64_t first = static_cast<int64_t>(blockIdx.x) * run + threadIdx.x;
  auto rank_of = [&](int done) { return Rank(first + done < at.pixels() ? argmax[first + done] : total, keys); };
  for (int i = threadIdx.x; i < rows * keys; i += kSorters) counts[i] = 0;
  __syncthreads();
  for (int done = 0; done < run; done += kSorters) {
    const Rank rank = rank_of(done);
    if (rank.before == 0) counts[(done / 32 + warp) * keys + rank.key] = static_cast<uint16_t>(rank.same);
  }
  __syncthreads();
  for (int k = threadIdx.x; k < keys; k += kSorters) {
    int sum = 0;
    for (int row = 0; row < rows; ++row) {
      const int count = counts[row * keys + k];
      counts[row * keys + k] = static_cast<uint16_t>(sum);
      sum += count;
    }
    starts[k] = sum;
  }
  __syncthreads();
  if (warp == 0) {
    int carry = 0;
    for (int start = 0; start < keys; start += 32) {
      const int k = start + lane, count = k < keys ? starts[k] : 0;
      int sum = count;
      for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
      }
      if (k < keys) bounds[blockIdx.x * static_cast<int64_t>(keys) + k] = starts[k] = carry + sum - count;
      carry += __shfl_sync(0xffffffffu, sum, 31);
    }
  }
  __syncthreads();
  for (int done = 0; done < run; done += kSorters) {
    const Rank rank = rank_of(done);
    const int64_t pixel = first + done;
    const bool there = pixel < at.pixels();
    const int in_image = there ? static_cast<int>(pixel % at.area()) : 0;
    const float gain = there ? widen(dm[pixel / at.area() * 2 * at.area() + at.area() + in_image]) : 0.f;
    const int place = starts[rank.key] + counts[(done / 32 + warp) * keys + rank.key] + rank.before;
    sorted[static_cast<int64_t>(blockIdx.x) * run + place] = {static_cast<int>(threadIdx.x) + done,
                                                              in_image / at.width, in_image % at.width, gain};
  }
}

}  // namespace aminet::skaf
