// skaf_descriptor's forward on tensor cores, a block's course: tile and stages come in, warps multiply, pools go out.
#pragma once

#include "cuda/skaf_descriptor_forward.cuh"

namespace aminet::skaf {

// The parts of the sums that the other warps of the same tile made, added to those of the first of them.
template <typename M, int WK, int MT, int NT>
__device__ __forceinline__ void add_parts(M& multiply, float* room, int warp_tile, int warp_k) {
  const int lane = threadIdx.x % 32;
  float* mine = room + warp_tile * (WK - 1) * MT * NT * 128 + lane * 4;
  if (warp_k > 0) {
#pragma unroll
    for (int i = 0; i < MT * NT; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        mine[((warp_k - 1) * MT * NT + i) * 128 + e] = multiply.acc[i / NT][i % NT][e];
  }
  __syncthreads();
  if (warp_k == 0) {
#pragma unroll
    for (int k = 0; k < WK - 1; ++k)
#pragma unroll
      for (int i = 0; i < MT * NT; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) multiply.acc[i / NT][i % NT][e] += mine[(k * MT * NT + i) * 128 + e];
  }
}

// Pools of a warp's pixels over its columns; the lane that has a pixel's writes it to pools [pixels][WN].
template <typename T, typename M, int WN, int MT, int NT>
__device__ __forceinline__ void pool_columns(const M& multiply, const Convs& convs, const Sums& s, const Biases& biases,
                                             int group, int warp_m, int warp_n, Pool* pools) {
  const int lane = threadIdx.x % 32;
  int channels[NT * 2];
  float bias[NT * 2];
#pragma unroll
  for (int j = 0; j < NT * 2; ++j) {
    channels[j] = M::channel_of(convs, s, group, warp_n, j / 2 * 8 + lane % 4 * 2 + j % 2);
    bias[j] = channels[j] < 0 ? 0.f : biases.template of<T>(convs, channels[j]);
  }
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Pool pool;
#pragma unroll
      for (int j = 0; j < NT * 2; ++j)
        if (channels[j] >= 0) pool.take(multiply.acc[i][j / 2][2 * half + j % 2] + bias[j], channels[j]);
      pool.join(shuffled(pool, 1));
      pool.join(shuffled(pool, 2));
      if (lane % 4 == 0) pools[((warp_m * MT + i) * kTileWidth + half * 8 + lane / 4) * WN + warp_n] = pool;
    }
}

// Blocks: tiles of all images; groups of channels.
template <typename T, int WM, int WN, int WK, int MT, int NT, int BLOCKS>
__global__ void __launch_bounds__(32 * WM * WN * WK, BLOCKS)
    tiles_kernel(const T* x, const T* packed, Biases biases, Pooled<T> to, Image at, Convs convs, Sums s) {
  using M = Multiply<T, WM, WN, WK, MT, NT>;
  using S = Shape<WM, WN, WK, MT, NT>;
  AMINET_DYNAMIC_SHARED(unsigned char, tiles);
  const int row_units = (kTileWidth + convs.window - 1) * s.stride;
  const int tile_bytes = (S::rows + convs.window - 1) * row_units * kUnitBytes;
  unsigned char* ring = tiles + (s.chunks > 1 ? 2 : 1) * tile_bytes;
  uint32_t* table = reinterpret_cast<uint32_t*>(ring + S::ring_bytes);

  const int across = ceil_div(at.width, kTileWidth), down = ceil_div(at.height, S::rows);
  const int first_x = static_cast<int>(blockIdx.x % across) * kTileWidth;
  const int first_y = static_cast<int>(blockIdx.x / across % down) * S::rows;
  const int64_t image = blockIdx.x / across / down;
  x += image * at.area() * convs.inputs;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_n = warp % WN, warp_m = warp / WN % WM, warp_k = warp / WN / WM;

  for (int i = threadIdx.x; i < s.table; i += S::threads) table[i] = entry_of(convs, s, i);
  M multiply;
  multiply.begin(convs, s, blockIdx.y);
  load_tile(tiles, x, at, convs, s, 0, first_y, first_x, S::rows);
  __syncthreads();  // the table
  const int each = s.inner + s.outer;
  int next_chunk = 0, next = 0, place = 0;  // of the stage that is loaded next
  auto load_stage = [&] {
    if (next_chunk < s.chunks)
      multiply.load_stage(ring + place * S::stage_units * kUnitBytes, packed, table, convs, s, next_chunk, next);
    commit_async();
    if (++next == each) next = 0, ++next_chunk;
    if (++place == kStages) place = 0;
  };
  for (int i = 0; i < kStages - 1; ++i) load_stage();

  int here = 0;  // of the stage that is multiplied
  for (int chunk = 0; chunk < s.chunks; ++chunk) {
    unsigned char* arrived = tiles + chunk % 2 * tile_bytes;
    const unsigned char* tile = arrived + (warp_m * MT * row_units + lane % 16 * s.stride) * kUnitBytes;
    for (int r = 0; r < each; ++r) {
      if (r == 0) {
        wait_async<0>();  // the tile too
        if constexpr (std::is_same_v<T, float>) {
          __syncthreads();
          round_tile(arrived, tile_bytes);
        }
      } else {
        wait_async<kStages - 2>();
      }
      __syncthreads();
      if (r == 0 && chunk + 1 < s.chunks)
        load_tile(tiles + (chunk + 1) % 2 * tile_bytes, x, at, convs, s, chunk + 1, first_y, first_x, S::rows);
      load_stage();
      const unsigned char* weights = ring + (here * S::stage_units + warp_n * NT * 8 * (kStage + 1)) * kUnitBytes;
      if (++here == kStages) here = 0;
      if (r < s.inner)
        multiply.template stage<NT>(tile, weights, table + r * kStage, row_units, warp_k);
      else
        multiply.template stage<NT / 2>(tile, weights, table + r * kStage, row_units, warp_k);
    }
  }
  wait_async<0>();
  __syncthreads();

  Pool* pools = reinterpret_cast<Pool*>(ring);
  if constexpr (WK > 1) {
    float* room = reinterpret_cast<float*>(ring + S::ring_bytes - S::part_bytes);
    add_parts<M, WK, MT, NT>(multiply, room, warp % (WM * WN), warp_k);
  }
  if (warp_k == 0) pool_columns<T, M, WN, MT, NT>(multiply, convs, s, biases, blockIdx.y, warp_m, warp_n, pools);
  __syncthreads();
  for (int i = threadIdx.x; i < S::rows * kTileWidth; i += S::threads) {
    const int y = first_y + i / kTileWidth, px = first_x + i % kTileWidth;
    if (y >= at.height || px >= at.width) continue;
    Pool pool = pools[i * WN];
#pragma unroll
    for (int n = 1; n < WN; ++n) pool.join(pools[i * WN + n]);
    const int in_image = y * at.width + px;
    if (to.parts)
      to.parts[blockIdx.y * at.pixels() + image * at.area() + in_image] = pool;
    else
      to.put(pool, image, at.area(), in_image, convs.total);
  }
}

}  // namespace aminet::skaf
