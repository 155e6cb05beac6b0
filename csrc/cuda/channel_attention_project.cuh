// out = conv3x3(a) matrix, or a matrix, at every pixel: channel_attention's products with matrices of channels.
//
// Serves five times: u = x W^T; y = v M^T; [dq | dk] = [q | k] mix, one matrix a head; dv = dy M; dx = the transposed
// 3x3 of d, times W. A block makes up to 48 outputs of a tile of pixels; it takes the inputs 24 or 48 at a time: brings
// them with their halo, walks the 3x3 over them, rounds to T, multiplies. Blocks of one tile are neighbours in the grid,
// so that L2 serves the tile to all but the first. Reads a once (and halo), writes out once.
#pragma once

#include "cuda/channel_attention_products.cuh"
#include "cuda/channel_attention_tile.cuh"

namespace aminet::channel_attention {

// Blocks that have several tiles bring the next one while they work on one, and the matrix once; where there are fewer
// blocks than this many, no block has several.
constexpr int64_t kRunFrom = 1024, kLongestRun = 8;

template <typename T>
struct Projection {
  const T* a;  // [N, H * W, a_stride], from its first channel on
  int a_stride;
  bool conv, flipped;
  Parameter<T> taps;    // [channels, 9], likewise; with conv. flipped: the 3x3's transpose
  Parameter<T> matrix;  // element [image, group, k, m] at image * m_image + group * m_group + k * m_in + m * m_out
  int64_t m_image, m_group;
  int m_in, m_out;
  T* out;  // [N, H * W, out_stride], from its first channel on
  int out_stride;
  Size size;
  int images, groups, in, outs;  // channels that a half of a group takes in and gives
  int run;                       // tiles that a block takes, one after the other
  int halves, half;              // 2: a group's inputs are q's and k's channels, `half` apart, its outputs their gradients
};

template <typename Plan>
struct ProjectionRoom {  // in elements, all multiples of 16 bytes
  static constexpr int kTile = std::max((kWide + 2) * (kHigh + 2) * Plan::kIn, kPixels * Plan::kInPitch);
  static constexpr int kLeft = kPixels * Plan::kInPitch, kRight = Plan::kOut * Plan::kInPitch;
  static constexpr int kOutputs = kPixels * Plan::kOutPitch;
  static constexpr int kBytes = int(sizeof(typename Plan::T)) * (Plan::kStages * kTile + kLeft + kRight + kOutputs);
};

// right[m][k] = the matrix's inputs from `first` on of a half, outputs from `first_out` on, of each half `wide`.
template <typename Plan>
__device__ __forceinline__ void bring_matrix(typename Plan::T* right, const Projection<typename Plan::T>& g,
                                             int64_t matrix, int in_half, int first, int first_out, int wide) {
  constexpr int K = Plan::kIn, M = Plan::kOut;
#pragma unroll(Plan::kBlocks > 2 ? 1 : 4)  // loads at a time; with one block of channels it is brought once
  for (int i = threadIdx.x; i < M * K; i += kThreads) {
    const int k = first + i % K, m = first_out + i / K % wide, out_half = i / K / wide;
    const bool inside = k < g.in && m < g.outs;
    const int64_t element = matrix + int64_t(in_half * g.in + k) * g.m_in + int64_t(out_half * g.outs + m) * g.m_out;
    right[i / K * Plan::kInPitch + i % K] = narrow<typename Plan::T>(inside ? g.matrix.at(element) : 0.f);
  }
}

// A warp's row of the tile, by way of its own part of `outputs`, so that 16 bytes go out at a time.
template <typename Plan>
__device__ __forceinline__ void bring_out(typename Plan::T* outputs, const float (&sums)[Plan::kOut / 8][4],
                                          const Projection<typename Plan::T>& g, Place at, int group, int first_out,
                                          int wide) {
  using T = typename Plan::T;
  constexpr int pitch = Plan::kOutPitch;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, y = at.y + warp;
  T* row = outputs + warp * kWide * pitch;
  __syncwarp();  // the one before has gone out
#pragma unroll
  for (int n = 0; n < Plan::kOut / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      Vector<T, 2> pair;
      pair[0] = narrow<T>(sums[n][i]), pair[1] = narrow<T>(sums[n][i + 1]);
      store(row + (lane / 4 + i / 2 * 8) * pitch + n * 8 + lane % 4 * 2, pair);
    }
  __syncwarp();
  if (y >= g.size.height) return;
  T* to = g.out + (at.image * g.size.pixels() + int64_t(y) * g.size.width + at.x) * g.out_stride + group * g.outs;
  constexpr int each = Plan::kVectors ? 16 / int(sizeof(T)) : 1, pieces = Plan::kOut / each;
#pragma unroll 1
  for (int i = lane; i < kWide * pieces; i += 32) {
    const int x = i / pieces, o = i % pieces * each, m = first_out + o % wide;
    if (at.x + x < g.size.width && m < g.outs)
      store(to + x * g.out_stride + o / wide * g.half + m, load<each>(row + x * pitch + o));
  }
}

template <typename Plan>
__global__ void __launch_bounds__(kThreads, Plan::kBlocks) project_kernel(Projection<typename Plan::T> g) {
  using T = typename Plan::T;
  using Room = ProjectionRoom<Plan>;
  constexpr int K = Plan::kIn, M = Plan::kOut, pitch = Plan::kInPitch, V = Plan::kEach;
  AMINET_DYNAMIC_SHARED(T, tiles);
  T* left = tiles + Plan::kStages * Room::kTile;  // [128][pitch]
  T* right = left + Room::kLeft;                  // [M][pitch]
  T* outputs = right + Room::kRight;
  const int wide = M / g.halves, out_blocks = ceil_div(g.outs, wide), in_blocks = ceil_div(g.in, K);
  const int block = int(blockIdx.x) % (g.groups * out_blocks), group = block / out_blocks;
  const int first_out = block % out_blocks * wide, inputs = g.halves * in_blocks;
  const int first_tile = int(blockIdx.x) / (g.groups * out_blocks) * g.run;
  const int steps = min(g.run, g.images * g.size.tiles() - first_tile) * inputs;

  const auto bring_step = [&](int step) {
    const Place at = g.size.place(first_tile + step / inputs);
    const int in_half = step % inputs / in_blocks, first = step % in_blocks * K, channels = min(K, g.in - first);
    const T* from = g.a + at.image * g.size.pixels() * g.a_stride + group * g.in + in_half * g.half + first;
    T* tile = tiles + step % Plan::kStages * Room::kTile;
    if (g.conv)
      bring<T, K, 1, Plan::kVectors>(tile, K, from, g.a_stride, channels, g.size, at);
    else
      bring<T, K, 0, Plan::kVectors>(tile, pitch, from, g.a_stride, channels, g.size, at);
    commit_async();
  };

#pragma unroll 1  // the padding takes part in products: of `right`, and of what stands left of it
  for (int i = threadIdx.x; i < Room::kLeft + Room::kRight; i += kThreads)
    if (i % pitch >= K) {
      left[i] = narrow<T>(0.f);
      if (!g.conv && i < Room::kLeft)
        for (int stage = 0; stage < Plan::kStages; ++stage) tiles[stage * Room::kTile + i] = narrow<T>(0.f);
    }
  const bool walks = g.conv && threadIdx.x < kWalkers;
  constexpr int lanes = K / V;
  const int channel = threadIdx.x % lanes * V;
  Weights<V> w;
  float sums[M / 8][4];
  int of_right = -1;  // the image whose matrix is there
  bring_step(0);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const Place at = g.size.place(first_tile + step / inputs);
    const int in_half = step % inputs / in_blocks, first = step % in_blocks * K;
    const T* tile = tiles + step % Plan::kStages * Room::kTile;
    if (Plan::kStages > 1 && step + 1 < steps) bring_step(step + 1);
    const int image = g.m_image > 0 ? at.image : 0;
    if (inputs > 1 || image != of_right) {
      of_right = image;
      bring_matrix<Plan>(right, g, image * g.m_image + group * g.m_group, in_half, first, first_out, wide);
    }
    if (walks && (inputs > 1 || step == 0)) {
      const int begin = in_half * g.half + group * g.in + first;
      w = weights<V>(g.taps, begin + channel, begin + min(K, g.in - first), g.flipped);
    }
    Plan::kStages > 1 && step + 1 < steps ? wait_async<1>() : wait_async<0>();
    __syncthreads();
    if (g.conv) {
      for (int column = threadIdx.x / lanes; walks && column < kWide; column += kWalkers / lanes)
        walk<V, K>(tile + column * K + channel, w, [&](int row, auto&, auto&, auto&, auto& value) {
          if (row >= 2) store(left + ((row - 2) * kWide + column) * pitch + channel, rounded<T>(value, true));
        });
      __syncthreads();
    }
    const T* rows = (g.conv ? left : tile) + threadIdx.x / 32 * kWide * pitch;
    if (step % inputs == 0)
#pragma unroll
      for (auto& sum : sums) sum[0] = sum[1] = sum[2] = sum[3] = 0;
#pragma unroll 1
    for (int k = 0; k < Plan::kInPadded; k += 16) {
      const auto a = Product<T>::along_a(rows + k, pitch);
#pragma unroll
      for (int n = 0; n < M / 8; ++n) Product<T>::add(sums[n], a, Product<T>::along_b(right + n * 8 * pitch + k, pitch));
    }
    if ((step + 1) % inputs == 0) bring_out<Plan>(outputs, sums, g, at, group, first_out, wide);
    __syncthreads();
    if (Plan::kStages == 1 && step + 1 < steps) bring_step(step + 1);
  }
}

template <typename Plan>
void project(Projection<typename Plan::T> g, cudaStream_t stream) {
  const int64_t tiles = int64_t(g.images) * g.size.tiles(), blocks = g.groups * ceil_div(g.outs, Plan::kOut / g.halves);
  g.run = int(std::clamp<int64_t>(tiles * blocks / kRunFrom, 1, kLongestRun));
  AMINET_LAUNCH((project_kernel<Plan>), dim3(unsigned(ceil_div<int64_t>(tiles, g.run) * blocks)), dim3(kThreads),
                size_t(ProjectionRoom<Plan>::kBytes), stream, g);
}

}  // namespace aminet::channel_attention
