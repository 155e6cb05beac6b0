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
  int halves, half;              // 2: a group's inputs are q's and k's channels, `half` apart, its outputs their gradients
};

template <typename Plan>
__device__ __forceinline__ constexpr int projection_room() {  // elements of the tile, and later of the outputs
  constexpr int halo = (kWide + 2) * (kHigh + 2) * Plan::kIn, outputs = kPixels * Plan::kOutPitch;
  return halo > outputs ? halo : outputs;
}

template <typename Plan>
constexpr int projection_bytes() {
  constexpr int halo = (kWide + 2) * (kHigh + 2) * Plan::kIn, outputs = kPixels * Plan::kOutPitch;
  return int(sizeof(typename Plan::T)) *
         ((halo > outputs ? halo : outputs) + (kPixels + Plan::kOut) * Plan::kInPitch);
}

template <typename Plan>
__global__ void __launch_bounds__(kThreads, 2) project_kernel(Projection<typename Plan::T> g) {
  using T = typename Plan::T;
  constexpr int K = Plan::kIn, M = Plan::kOut, pitch = Plan::kInPitch, V = Plan::kEach, tiles_n = M / 8;
  AMINET_DYNAMIC_SHARED(T, tile);
  T* left = tile + projection_room<Plan>();  // [128][pitch]
  T* right = left + kPixels * pitch;         // [M][pitch]
  const int wide = M / g.halves, out_blocks = ceil_div(g.outs, wide), in_blocks = ceil_div(g.in, K);
  const int block = blockIdx.x % (g.groups * out_blocks), group = block / out_blocks;
  const int first_out = block % out_blocks * wide;
  const Place at = g.size.place(blockIdx.x / (g.groups * out_blocks));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const T* image = g.a + at.image * g.size.pixels() * g.a_stride + group * g.in;

#pragma unroll 1
  for (int i = threadIdx.x; i < (kPixels + M) * pitch; i += kThreads)
    if (i % pitch >= K) left[i] = narrow<T>(0.f);  // the padding takes part in products
  float sums[tiles_n][4] = {};
  for (int index = 0; index < g.halves * in_blocks; ++index) {
    const int in_half = index / in_blocks, first = index % in_blocks * K, channels = min(K, g.in - first);
    const T* from = image + in_half * g.half + first;
    if (index > 0) __syncthreads();
    if (g.conv)
      bring<T, K, 1, Plan::kVectors>(tile, K, from, g.a_stride, channels, g.size, at);
    else
      bring<T, K, 0, Plan::kVectors>(left, pitch, from, g.a_stride, channels, g.size, at);
    commit_async();
    const int64_t matrix = at.image * g.m_image + group * g.m_group;
#pragma unroll 2
    for (int i = threadIdx.x; i < M * K; i += kThreads) {
      const int k = first + i % K, m = first_out + i / K % wide, out_half = i / K / wide;
      const bool inside = k < g.in && m < g.outs;
      const int64_t element =
          matrix + int64_t(in_half * g.in + k) * g.m_in + int64_t(out_half * g.outs + m) * g.m_out;
      right[i / K * pitch + i % K] = narrow<T>(inside ? g.matrix.at(element) : 0.f);
    }
    if (g.conv) {
      constexpr int lanes = K / V;
      const bool walks = threadIdx.x < kWalkers;
      const int channel = threadIdx.x % lanes * V;
      Weights<V> w;
      if (walks)
        w = weights<V>(g.taps, in_half * g.half + group * g.in + first + channel,
                       in_half * g.half + group * g.in + first + channels, g.flipped);
      wait_async<0>();
      __syncthreads();
      for (int column = threadIdx.x / lanes; walks && column < kWide; column += kWalkers / lanes)
        walk<V, K>(tile + column * K + channel, w, [&](int step, auto&, auto&, auto&, auto& value) {
          if (step >= 2) store(left + ((step - 2) * kWide + column) * pitch + channel, rounded<T>(value, true));
        });
    } else {
      wait_async<0>();
    }
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < Plan::kInPadded; k += 16) {
      const auto a = Product<T>::along_a(left + warp * kWide * pitch + k, pitch);
#pragma unroll
      for (int n = 0; n < tiles_n; ++n)
        Product<T>::add(sums[n], a, Product<T>::along_b(right + n * 8 * pitch + k, pitch));
    }
  }

  // A warp's own row: nobody else reads or writes it, and the products no longer read `tile`.
  constexpr int out_pitch = Plan::kOutPitch;
  T* row = tile + warp * kWide * out_pitch;
#pragma unroll
  for (int n = 0; n < tiles_n; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      row[(lane / 4 + i / 2 * 8) * out_pitch + n * 8 + lane % 4 * 2 + i % 2] = narrow<T>(sums[n][i]);
  __syncwarp();
  const int y = at.y + warp;
  if (y >= g.size.height) return;
  T* to = g.out + (at.image * g.size.pixels() + int64_t(y) * g.size.width + at.x) * g.out_stride + group * g.outs;
  constexpr int each = Plan::kVectors ? 16 / int(sizeof(T)) : 1, pieces = M / each;
  for (int i = lane; i < kWide * pieces; i += 32) {
    const int x = i / pieces, o = i % pieces * each, m = first_out + o % wide;
    if (at.x + x < g.size.width && m < g.outs)
      store(to + int64_t(x) * g.out_stride + o / wide * g.half + m, load<each>(row + x * out_pitch + o));
  }
}

template <typename Plan>
void project(const Projection<typename Plan::T>& g, cudaStream_t stream) {
  const int64_t blocks = int64_t(g.images) * g.size.tiles() * g.groups * ceil_div(g.outs, Plan::kOut / g.halves);
  AMINET_LAUNCH((project_kernel<Plan>), dim3(unsigned(blocks)), dim3(kThreads), size_t(projection_bytes<Plan>()), stream,
                g);
}

}  // namespace aminet::channel_attention
