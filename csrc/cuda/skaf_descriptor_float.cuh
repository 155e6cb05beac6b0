// skaf_descriptor's forward in float32, without tensor cores and exact but for the order of sums. A thread makes PIXELS
// pixels below each other's OUTPUTS channels of each convolution, a block 16 x (2 PIXELS) pixels' 8 OUTPUTS.
#pragma once

#include "cuda/skaf_descriptor_pool.cuh"

namespace aminet::skaf {

constexpr int kFloatWidth = 16;
constexpr int kFloatChunk = 24;                // inputs at a time
constexpr int kFloatStride = kFloatChunk + 4;  // of a pixel, or of a channel's weights: an odd number of vectors
constexpr int kFloatThreads = 256;
constexpr int kFloatLanes = 8;  // threads of a warp that share pixels

template <int PIXELS, int OUTPUTS>
struct FloatBlock {
  static constexpr int rows = kFloatThreads / kFloatLanes / kFloatWidth * PIXELS;
  static constexpr int each = kFloatLanes * OUTPUTS;  // channels of each convolution
  static constexpr int stage = 2 * each * kFloatStride;

  static int64_t bytes(const Convs& convs) {
    const int halo = convs.window - 1;
    return sizeof(float) * ((rows + halo) * (kFloatWidth + halo) * kFloatStride + 2 * stage);
  }

  const float* x;  // of the block's image
  const float* packed;
  Image at;
  Convs convs;
  int small, large, group;
  int first_y, first_x;

  __device__ __forceinline__ int channel_of(int column) const {
    const int conv = column < each ? large : small, o = group * each + column % each;
    return conv >= 0 && o < convs.outputs(conv) ? convs.begin(conv) + o : -1;
  }

  // Inputs first_c on of the pixels in reach, zeros elsewhere.
  __device__ __forceinline__ void load_tile(float* tile, int first_c) const {
    const int radius = convs.window / 2, width = kFloatWidth + 2 * radius, pixels = (rows + 2 * radius) * width;
    const bool whole = convs.inputs % 4 == 0;
    for (int i = threadIdx.x; i < pixels * (kFloatChunk / 4); i += kFloatThreads) {
      const int pixel = i / (kFloatChunk / 4), c = first_c + i % (kFloatChunk / 4) * 4;
      const int y = first_y - radius + pixel / width, px = first_x - radius + pixel % width;
      const bool inside = y >= 0 && y < at.height && px >= 0 && px < at.width && c < convs.inputs;
      const float* from = inside ? x + static_cast<int64_t>(y * at.width + px) * convs.inputs + c : x;
      float* to = tile + pixel * kFloatStride + i % (kFloatChunk / 4) * 4;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (whole && j == 0)
          copy_async<16>(to, from, inside);
        else if (!whole)
          to[j] = inside && c + j < convs.inputs ? from[j] : 0.f;
    }
  }

  // Of one tap; those of the smaller convolution only where it has some.
  __device__ __forceinline__ void load_weights(float* to, int tap, int first_c, bool both) const {
    const int count = (both ? 2 : 1) * each * (kFloatChunk / 4);
    for (int i = threadIdx.x; i < count; i += kFloatThreads) {
      const int column = i / (kFloatChunk / 4), k = i % (kFloatChunk / 4) * 4, channel = channel_of(column);
      const bool there = channel >= 0 && first_c + k < convs.padded;
      const int64_t at_weight = (static_cast<int64_t>(channel) * convs.taps + tap) * convs.padded + first_c + k;
      copy_async<16>(to + column * kFloatStride + k, packed + (there ? at_weight : 0), there);
    }
  }
};

// acc [conv][pixel][output] += the tap's products.
template <int CONVS, int PIXELS, int OUTPUTS>
__device__ __forceinline__ void multiply_tap(float (&acc)[2][PIXELS][OUTPUTS], const float* tile, int row,
                                             const float* weights) {
#pragma unroll 1  // more would take more registers than a thread has
  for (int k = 0; k < kFloatChunk; k += 4) {
    Vector<float, 4> w[CONVS][OUTPUTS];
#pragma unroll
    for (int v = 0; v < CONVS; ++v)
#pragma unroll
      for (int o = 0; o < OUTPUTS; ++o)
        w[v][o] = load<4>(weights + (v * OUTPUTS + o) * kFloatLanes * kFloatStride + k);
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
      const Vector<float, 4> a = load<4>(tile + p * row + k);
#pragma unroll
      for (int v = 0; v < CONVS; ++v)
#pragma unroll
        for (int o = 0; o < OUTPUTS; ++o)
#pragma unroll
          for (int j = 0; j < 4; ++j) acc[v][p][o] += a[j] * w[v][o][j];
    }
  }
}

template <int PIXELS, int OUTPUTS>
__global__ void __launch_bounds__(kFloatThreads, 2)
    float_kernel(const float* x, const float* packed, Biases biases, Pooled<float> to, Image at, Convs convs, int small,
                 int large) {
  AMINET_DYNAMIC_SHARED(float, tile);
  const int radius = convs.window / 2, width = kFloatWidth + 2 * radius, row = width * kFloatStride;
  using Block = FloatBlock<PIXELS, OUTPUTS>;
  float* ring = tile + (Block::rows + 2 * radius) * row;  // [2][2 * each][kFloatStride]
  const int across = ceil_div(at.width, kFloatWidth), down = ceil_div(at.height, Block::rows);
  const int64_t image = blockIdx.x / across / down;
  const Block block = {x + image * at.area() * convs.inputs,
                            packed,
                            at,
                            convs,
                            small,
                            large,
                            static_cast<int>(blockIdx.y),
                            static_cast<int>(blockIdx.x / across % down) * Block::rows,
                            static_cast<int>(blockIdx.x % across) * kFloatWidth};
  const int lane = threadIdx.x % kFloatLanes, place = threadIdx.x / kFloatLanes;
  const int px = place % kFloatWidth, first_row = place / kFloatWidth * PIXELS;
  const int reach = small < 0 ? -1 : either(convs.size, small) / 2;

  float acc[2][PIXELS][OUTPUTS] = {};
  for (int first_c = 0; first_c < convs.inputs; first_c += kFloatChunk) {
    __syncthreads();  // all have read the chunk before
    block.load_tile(tile, first_c);
    block.load_weights(ring, 0, first_c, ring_of(0, convs.window) <= reach);
    commit_async();
    for (int tap = 0; tap < convs.taps; ++tap) {
      wait_async<0>();
      __syncthreads();
      if (tap + 1 < convs.taps)
        block.load_weights(ring + (tap + 1) % 2 * Block::stage, tap + 1, first_c,
                           ring_of(tap + 1, convs.window) <= reach);
      commit_async();
      const float* from =
          tile + (first_row + tap / convs.window) * row + (px + tap % convs.window) * kFloatStride;
      const float* weights = ring + tap % 2 * Block::stage + lane * kFloatStride;
      if (ring_of(tap, convs.window) <= reach)
        multiply_tap<2>(acc, from, row, weights);
      else
        multiply_tap<1>(acc, from, row, weights);
    }
  }
  wait_async<0>();

#pragma unroll
  for (int p = 0; p < PIXELS; ++p) {
    Pool pool;
#pragma unroll
    for (int i = 0; i < 2 * OUTPUTS; ++i) {
      const int channel = block.channel_of(i * kFloatLanes + lane);
      if (channel >= 0)
        pool.take(acc[i / OUTPUTS][p][i % OUTPUTS] + biases.of<float>(convs, channel), channel);
    }
#pragma unroll
    for (int distance = 1; distance < kFloatLanes; distance *= 2) pool.join(shuffled(pool, distance));
    const int y = block.first_y + first_row + p, at_x = block.first_x + px;
    if (lane != 0 || y >= at.height || at_x >= at.width) continue;
    const int in_image = y * at.width + at_x;
    if (to.parts)
      to.parts[blockIdx.y * at.pixels() + image * at.area() + in_image] = pool;
    else
      to.put(pool, image, at.area(), in_image, convs.total);
  }
}

}  // namespace aminet::skaf
