// Gradients of skaf_descriptor's weights: dW[o, d] = sum over pixels p with argmax o of dmax[p] * x[p + d]
//                                                  + sum over all p of dmean[p] / total * x[p + d]
//
// First part: runs of 512 pixels are sorted by channel. A task is one channel's 32 vectors of eight numbers of its window
// [taps, channels of x], a lane's vector kept in registers; a warp has some tasks, a block eight warps' of them, and
// passes over every so many runs. Second part: one sum [taps, channels of x] for all channels of u.
#pragma once

#include "cuda/skaf_descriptor.cuh"

namespace aminet::skaf {

constexpr int kRun = 512;  // pixels that are sorted together, and threads that do it
constexpr int kWarps = 8;
constexpr int kTasks = 4;  // of a warp
constexpr int kBlockTasks = kWarps * kTasks;
constexpr int kFar = 1 << 15;  // rows that no image has
constexpr int kSegment = 64;  // pixels of a row that are correlated at a time

struct alignas(16) Pixel {
  int place;  // in its run
  int row, column;
  float gain;
};

// Which tasks there are: those of the first convolution, then the other's; a group of 32 vectors after the other.
struct Tasks {
  int groups[kMostConvs];
  int first[kMostConvs + 1];
};

inline Tasks tasks_of(const Convs& convs) {
  Tasks tasks = {};
  for (int i = 0; i < convs.count; ++i) {
    tasks.groups[i] = ceil_div(convs.size[i] * convs.size[i] * (convs.padded / kVector), 32);
    tasks.first[i + 1] = tasks.first[i] + tasks.groups[i] * convs.outputs(i);
  }
  if (convs.count == 1) tasks.first[2] = tasks.first[1];
  return tasks;
}

// Pixels of a run in the order of their channels, in one channel of their numbers; bounds [runs][total + 1].
template <typename T>
__global__ void __launch_bounds__(kRun)
    sort_kernel(const T* dm, const int* argmax, Pixel* sorted, int* bounds, Image at, int total) {
  AMINET_DYNAMIC_SHARED(int, counts);  // [warps + 1][total + 1]: the pixels that are no more there are last
  const int keys = total + 1, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int* starts = counts + kRun / 32 * keys;
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kRun + threadIdx.x;
  const bool there = pixel < at.pixels();
  const int key = there ? argmax[pixel] : total;
  for (int i = threadIdx.x; i < kRun / 32 * keys; i += kRun) counts[i] = 0;
  __syncthreads();
  unsigned same = 0xffffffffu;
  for (int bit = 1; bit < 2 * keys; bit *= 2) {
    const unsigned set = __ballot_sync(0xffffffffu, key & bit);
    same &= key & bit ? set : ~set;
  }
  const int before = __popc(same & ((1u << lane) - 1));
  if (before == 0) counts[warp * keys + key] = __popc(same);
  __syncthreads();
  for (int k = threadIdx.x; k < keys; k += kRun) {
    int sum = 0;
    for (int w = 0; w < kRun / 32; ++w) {
      const int count = counts[w * keys + k];
      counts[w * keys + k] = sum;
      sum += count;
    }
    starts[k] = sum;
  }
  __syncthreads();
  if (warp == 0) {
    int carry = 0;
    for (int first = 0; first < keys; first += 32) {
      const int k = first + lane, count = k < keys ? starts[k] : 0;
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
  const int in_image = there ? static_cast<int>(pixel % at.area()) : 0;
  const float gain = there ? widen(dm[pixel / at.area() * 2 * at.area() + at.area() + in_image]) : 0.f;
  sorted[static_cast<int64_t>(blockIdx.x) * kRun + starts[key] + counts[warp * keys + key] + before] = {
      static_cast<int>(threadIdx.x), in_image / at.width, in_image % at.width, gain};
}

// Eight channels, of which `count` are there; zeros for the others. WHOLE: all are, and rows are whole vectors.
template <typename T, bool WHOLE>
__device__ __forceinline__ void load_channels(float (&to)[kVector], const T* from, int count, bool inside) {
  constexpr int kWide = 16 / sizeof(T);
  if constexpr (WHOLE) {
#pragma unroll
    for (int j = 0; j < kVector; j += kWide) {
      Vector<T, kWide> v = {};
      if (inside) v = load<kWide>(from + j);
#pragma unroll
      for (int e = 0; e < kWide; ++e) to[j + e] = widen(v[e]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < kVector; ++j) to[j] = inside && j < count ? widen(from[j]) : 0.f;
  }
}

// What a lane does in a task: its vector's tap and channels.
struct Lane {
  int shift;   // from a pixel to the vector in x
  int offset;  // of the tap: rows (16 bits; far out of every image where there is no tap), columns (8); its channels (8)
  int channel;  // of u; < 0: there is no task

  __device__ __forceinline__ Lane(const Convs& convs, const Tasks& tasks, int width, int task, int lane) : channel(-1) {
    if (task >= tasks.first[2]) return;
    const int conv = task >= tasks.first[1], outputs = convs.outputs(conv), size = either(convs.size, conv);
    const int local = task - either(tasks.first, conv), units = convs.padded / kVector;
    const int v = local / outputs * 32 + lane, tap = v / units, c = v % units * kVector;
    const int dy = tap < size * size ? tap / size - size / 2 : -kFar, dx = tap % size - size / 2;
    shift = tap < size * size ? (dy * width + dx) * convs.inputs + c : c;
    offset = static_cast<int>(static_cast<unsigned>(dy) << 16 | (static_cast<unsigned>(dx) & 255u) << 8 |
                              static_cast<unsigned>(min(kVector, convs.inputs - c)));
    channel = convs.begin(conv) + local % outputs;
  }
};

// Blocks: sets of tasks; splits of the runs. parts [splits][tasks][32][8], biases [splits][total].
template <typename T, bool WHOLE>
__global__ void __launch_bounds__(32 * kWarps, 3)
    tasks_kernel(const T* x, const Pixel* sorted, const int* bounds, float* parts, float* biases, Image at, Convs convs,
                 Tasks tasks, int runs) {
  AMINET_SHARED(Pixel, pixels, [2][kRun]);
  AMINET_DYNAMIC_SHARED(int, starts);  // [2][total + 1]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, keys = convs.total + 1;
  const int first_task = blockIdx.x * kBlockTasks + warp;
  float acc[kTasks][kVector] = {}, gains[kTasks] = {};
  int shift[kTasks], offset[kTasks], channel[kTasks];
#pragma unroll
  for (int j = 0; j < kTasks; ++j) {
    const Lane mine(convs, tasks, at.width, first_task + j * kWarps, lane);
    shift[j] = mine.shift, offset[j] = mine.offset, channel[j] = mine.channel;
  }
  auto load_run = [&](int64_t run, int into) {
    if (run < runs) {
      for (int i = threadIdx.x; i < kRun; i += 32 * kWarps)
        copy_async<16>(&pixels[into][i], sorted + run * kRun + i, true);
      for (int i = threadIdx.x; i < keys; i += 32 * kWarps)
        copy_async<4>(starts + into * keys + i, bounds + run * keys + i, true);
    }
    commit_async();
  };
  load_run(blockIdx.y, 0);
  int into = 0;
  for (int64_t run = blockIdx.y; run < runs; run += gridDim.y, into ^= 1) {
    load_run(run + gridDim.y, into ^ 1);
    wait_async<1>();
    __syncthreads();
    const T* from = x + run * kRun * convs.inputs;
#pragma unroll
    for (int j = 0; j < kTasks; ++j) {
      if (channel[j] < 0) continue;
      const int dy = offset[j] >> 16, dx = static_cast<int8_t>(offset[j] >> 8 & 255), count = offset[j] & 255;
      const int end = starts[into * keys + channel[j] + 1];
#pragma unroll(WHOLE && sizeof(T) == 2 ? 2 : 1)  // loads that are under way together
      for (int i = starts[into * keys + channel[j]]; i < end; ++i) {
        const Pixel p = pixels[into][i];
        const int y = p.row + dy, px = p.column + dx;
        const bool inside = y >= 0 && y < at.height && px >= 0 && px < at.width;
        float values[kVector];
        load_channels<T, WHOLE>(values, from + (p.place * convs.inputs + shift[j]), count, inside);
#pragma unroll
        for (int e = 0; e < kVector; ++e) acc[j][e] += p.gain * values[e];
        gains[j] += p.gain;
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < kTasks; ++j) {
    if (channel[j] < 0) continue;
    const int task = first_task + j * kWarps, conv = task >= tasks.first[1];
    float* to = parts + ((static_cast<int64_t>(blockIdx.y) * tasks.first[2] + task) * 32 + lane) * kVector;
#pragma unroll
    for (int e = 0; e < kVector; ++e) to[e] = acc[j][e];
    if (lane == 0 && task - either(tasks.first, conv) < convs.outputs(conv))
      biases[static_cast<int64_t>(blockIdx.y) * convs.total + channel[j]] = gains[j];
  }
}

// parts [splits][taps * padded + 1]: sums of dmean[q - d] * x[q], and of dmean. A thread has a row of taps and a channel.
template <typename T>
__global__ void __launch_bounds__(256)
    correlate_kernel(const T* x, const T* dm, float* parts, Image at, Convs convs) {
  constexpr int kSpread = kSegment + kMostWindow - 1;
  AMINET_SHARED(float, means, [kMostWindow][kSpread]);
  const int radius = convs.window / 2, item = blockIdx.y * blockDim.x + threadIdx.x;
  const int tap_y = item / convs.padded, c = item % convs.padded;
  const int segments = ceil_div(at.width, kSegment);
  float acc[kMostWindow] = {}, sum = 0.f;
  for (int64_t i = blockIdx.x; i < at.images * at.height * segments; i += gridDim.x) {
    const int64_t row = i / segments, image = row / at.height;
    const int y = static_cast<int>(row % at.height), first = static_cast<int>(i % segments) * kSegment;
    __syncthreads();
    for (int k = threadIdx.x; k < convs.window * kSpread; k += blockDim.x) {
      const int from = y - (k / kSpread - radius), px = first + k % kSpread - radius;
      const bool inside = from >= 0 && from < at.height && px >= 0 && px < at.width;
      means[k / kSpread][k % kSpread] = inside ? widen(dm[image * 2 * at.area() + from * at.width + px]) : 0.f;
    }
    __syncthreads();
    if (tap_y >= convs.window || c >= convs.inputs) continue;
    const int count = min(kSegment, at.width - first);
    const T* from = x + (row * at.width + first) * convs.inputs + c;
#pragma unroll 4
    for (int p = 0; p < count; ++p) {
      const float value = widen(from[static_cast<int64_t>(p) * convs.inputs]);
#pragma unroll
      for (int j = 0; j < kMostWindow; ++j)
        if (j < convs.window) acc[j] += means[tap_y][p + 2 * radius - j] * value;
      sum += means[tap_y][p + radius];
    }
  }
  if (tap_y >= convs.window) return;
  const int length = convs.taps * convs.padded;
  float* to = parts + blockIdx.x * static_cast<int64_t>(length + 1);
#pragma unroll
  for (int j = 0; j < kMostWindow; ++j)
    if (j < convs.window) to[(tap_y * convs.window + j) * convs.padded + c] = acc[j];
  if (tap_y == radius && c == 0) to[length] = sum;
}

// Where gradients go, of the weights' own layout, in float or T.
struct Gradients {
  void* weights[kMostConvs];
  void* biases[kMostConvs];
  bool single[kMostConvs];
  Strides stride[kMostConvs];
};

template <typename T>
__device__ __forceinline__ void put(void* to, bool single, int64_t at, float value) {
  if (single)
    static_cast<float*>(to)[at] = value;
  else
    static_cast<T*>(to)[at] = narrow<T>(value);
}

// Blocks: channels of u; numbers of their weights. mean: what all channels get, their bias last.
template <typename T>
__global__ void __launch_bounds__(256) finish_kernel(const float* parts, const float* bias_parts, const float* mean,
                                                     Gradients to, Convs convs, Tasks tasks, int splits) {
  const int channel = blockIdx.x, conv = convs.conv_of(channel), o = channel - convs.begin(conv);
  const int size = either(convs.size, conv), k = blockIdx.y * blockDim.x + threadIdx.x;
  if (k == 0) {
    float sum = mean[convs.taps * convs.padded];
    for (int i = 0; i < splits; ++i) sum += bias_parts[static_cast<int64_t>(i) * convs.total + channel];
    put<T>(either(to.biases, conv), either(to.single, conv), o, sum);
  }
  const int tap = k / convs.padded, c = k % convs.padded;
  if (tap >= size * size || c >= convs.inputs) return;
  const int v = k / kVector, task = either(tasks.first, conv) + v / 32 * convs.outputs(conv) + o;
  const float* from = parts + (static_cast<int64_t>(task) * 32 + v % 32) * kVector + k % kVector;
  const int64_t step = static_cast<int64_t>(tasks.first[2]) * 32 * kVector;
  float sum = 0.f;
#pragma unroll 8
  for (int i = 0; i < splits; ++i) sum += from[i * step];
  const int y = tap / size, x = tap % size, inset = (convs.window - size) / 2;
  sum += mean[((y + inset) * convs.window + x + inset) * convs.padded + c];
  put<T>(either(to.weights, conv), either(to.single, conv), either(to.stride, conv).at(o, c, y, x), sum);
}

}  // namespace aminet::skaf
