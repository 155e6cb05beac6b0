// Sums over pixels of products of channels, the 3x3 applied to tiles in shared memory: channel_attention's q k^T with the
// norms of q and k; conv3x3(v) dy^T; du x^T, du being the transposed 3x3 of d, together with the gradient of the 3x3.
//
// A block makes a block of one of these matrices ([24, 24] or [48, 48]) over its share of an image's tiles, or of all
// images'. Its warps take the rows of a tile, 16 pixels being the length of a product; their sums stay in registers
// until the end, when they are added in the order of the warps. The shares are added by whoever reads them. No atomics.
#pragma once

#include "cuda/channel_attention_products.cuh"
#include "cuda/channel_attention_tile.cuh"

namespace aminet::channel_attention {

enum class Of { kGram, kOuter, kWeights };

template <typename T>
struct Sum {
  const T* a;  // [images, H * W, a_stride], from its first channel on; kGram: q's
  int a_stride;
  Parameter<T> taps;  // [channels, 9], likewise
  const T* b;         // [images, H * W, outs]; kGram: k's channels, strides and taps as a's
  Parameter<T> taps_b;
  const T* centre;  // kWeights: [images, H * W, a_stride]; what the 3x3 was applied to, of whose output a is the gradient
  float* out;       // [groups, splits, part]; a part is [ins, outs]; kGram: [heads, ins, outs] and the norms' squares
  float* dtaps;     // kWeights: [splits, ins, 9]
  Size size;
  int images;           // of a group, over which sums go
  int groups, splits;   // an image, or all
  int heads, ins, outs; // kGram: ins = outs = channels of a head
};

template <typename Plan, Of OF>
struct SumRoom {  // in elements of T, all multiples of 16 bytes
  static constexpr int kSides = OF == Of::kGram ? 2 : 1;
  static constexpr int kTile = (kWide + 2) * (kHigh + 2) * Plan::kIn * kSides;
  static constexpr int kCentre = OF == Of::kWeights ? kPixels * Plan::kIn : 0;
  static constexpr int kLeft = kPixels * Plan::kInPitch, kRight = kPixels * Plan::kOutPitch;
  static constexpr int kBytes = int(sizeof(typename Plan::T)) * (kTile + kCentre + kLeft + kRight);
  // What ends a block reuses it: sums [in padded][out], then a walker's own.
  static constexpr int kEnd = 4 * std::max(Plan::kInPadded * Plan::kOut, kWalkers * 9 * Plan::kEach);
  static_assert(kEnd <= kBytes);
};

// total[pair of channels] of what every walker has of them, COUNT numbers each, in the order of the walkers.
template <int COUNT, int LANES, typename Write>
__device__ __forceinline__ void add_walkers(float* room, const float (&mine)[COUNT], Write&& write) {
  __syncthreads();
  if (threadIdx.x < kWalkers)
#pragma unroll
    for (int i = 0; i < COUNT; ++i) room[threadIdx.x * COUNT + i] = mine[i];
  __syncthreads();
  for (int i = threadIdx.x; i < LANES * COUNT; i += kThreads) {
    float total = 0;
    for (int walker = i / COUNT; walker < kWalkers; walker += LANES) total += room[walker * COUNT + i % COUNT];
    write(i / COUNT, i % COUNT, total);
  }
}

template <typename Plan, Of OF>
__global__ void __launch_bounds__(kThreads, 2) sum_kernel(Sum<typename Plan::T> g) {
  using T = typename Plan::T;
  using Room = SumRoom<Plan, OF>;
  constexpr int K = Plan::kIn, M = Plan::kOut, V = Plan::kEach, in_pitch = Plan::kInPitch, out_pitch = Plan::kOutPitch;
  constexpr int tiles_m = Plan::kInPadded / 16, parts_n = M / 8 % 2 == 0 ? 2 : 1, tiles_n = M / 8 / parts_n;
  constexpr int tile_pitch = K * Room::kSides, lanes = tile_pitch / V;
  static_assert(OF != Of::kGram || (K == M && in_pitch == out_pitch));
  AMINET_DYNAMIC_SHARED(T, tile);
  T* centre = tile + Room::kTile;
  T* left = centre + Room::kCentre;
  T* right = left + Room::kLeft;

  const int in_blocks = ceil_div(g.ins, K), out_blocks = ceil_div(g.outs, M), blocks = in_blocks * out_blocks;
  const int head = blockIdx.x % (g.heads * blocks) / blocks;
  const int in_block = blockIdx.x % blocks / out_blocks, out_block = blockIdx.x % out_blocks;
  const int share = blockIdx.x / (g.heads * blocks);  // group, split
  const int group = share / g.splits, split = share % g.splits;
  const int first_in = head * g.ins + in_block * K, first_out = head * g.outs + out_block * M;
  const int ins = min(K, g.ins - in_block * K), outs = min(M, g.outs - out_block * M);

  const bool walks = threadIdx.x < kWalkers;
  const int lane_channel = threadIdx.x % lanes * V;  // of the tile, in which k's follow q's
  const bool second = OF == Of::kGram && lane_channel >= K;
  const int channel = second ? lane_channel - K : lane_channel;
  const Weights<V> w =
      second ? weights<V>(g.taps_b, first_out + channel, first_out + outs, false)
             : weights<V>(g.taps, first_in + channel, first_in + ins, OF == Of::kWeights);
  const int warp = threadIdx.x / 32, part_n = warp % parts_n;
  float sums[tiles_m][tiles_n][4] = {};
  float own[OF == Of::kWeights ? 9 * V : V] = {};  // of the taps' gradient; of squares

  const int64_t total = int64_t(g.images) * g.size.tiles();
  for (int64_t index = split * total / g.splits; index < (split + 1) * total / g.splits; ++index) {
    Place at = g.size.place(index);
    at.image += int64_t(group) * g.images;
    const int64_t pixel = at.image * g.size.pixels();
    bring<T, K, 1, Plan::kVectors>(tile, tile_pitch, g.a + pixel * g.a_stride + first_in, g.a_stride, ins, g.size, at);
    if constexpr (OF == Of::kGram)
      bring<T, K, 1, Plan::kVectors>(tile + K, tile_pitch, g.b + pixel * g.a_stride + first_out, g.a_stride, outs, g.size, at);
    else
      bring<T, M, 0, Plan::kVectors>(right, out_pitch, g.b + pixel * g.outs + first_out, g.outs, outs, g.size, at);
    if constexpr (OF == Of::kWeights)
      bring<T, K, 0, Plan::kVectors>(centre, K, g.centre + pixel * g.a_stride + first_in, g.a_stride, ins, g.size, at);
    commit_async();
    wait_async<0>();
    __syncthreads();
    for (int column = threadIdx.x / lanes; walks && column < kWide; column += kWalkers / lanes) {
      float above[V], here[V] = {}, below[V] = {};
      walk<V, tile_pitch>(
          tile + column * tile_pitch + lane_channel, w,
          [&](int step, auto& at_left, auto& middle, auto& at_right, auto& value) {
            if constexpr (OF == Of::kWeights) {
#pragma unroll
              for (int v = 0; v < V; ++v) above[v] = here[v], here[v] = below[v], below[v] = 0;
              if (step < kHigh) widened<V>(below, centre + (step * kWide + column) * K + channel);
#pragma unroll
              for (int v = 0; v < V; ++v) {  // a beside the centre came through the opposite tap
                own[8 * V + v] += at_left[v] * below[v], own[7 * V + v] += middle[v] * below[v];
                own[6 * V + v] += at_right[v] * below[v], own[5 * V + v] += at_left[v] * here[v];
                own[4 * V + v] += middle[v] * here[v], own[3 * V + v] += at_right[v] * here[v];
                own[2 * V + v] += at_left[v] * above[v], own[1 * V + v] += middle[v] * above[v];
                own[0 * V + v] += at_right[v] * above[v];
              }
            }
            if (step < 2) return;
            const int row = step - 2;
            const bool ours = at.y + row < g.size.height && at.x + column < g.size.width;
            const Vector<T, V> result = rounded<T>(value, ours);
            store((second ? right : left) + (row * kWide + column) * in_pitch + channel, result);
            // Norms of what is multiplied, rounded as it is: else cosines, and what of a gradient is along q or k itself
            // and has to cancel (with one pixel, all of it), are wrong by the rounding.
            if constexpr (OF == Of::kGram)
#pragma unroll
              for (int v = 0; v < V; ++v) own[v] += widen(result[v]) * widen(result[v]);
          });
    }
    __syncthreads();
#pragma unroll 1
    for (int row = warp / parts_n; row < kHigh; row += 8 / parts_n) {
      typename Product<T>::B b[tiles_n];
#pragma unroll
      for (int n = 0; n < tiles_n; ++n)
        b[n] = Product<T>::across_b(right + row * kWide * out_pitch + (part_n * tiles_n + n) * 8, out_pitch);
#pragma unroll
      for (int m = 0; m < tiles_m; ++m) {
        const auto a = Product<T>::across_a(left + row * kWide * in_pitch + m * 16, in_pitch);
#pragma unroll
        for (int n = 0; n < tiles_n; ++n) Product<T>::add(sums[m][n], a, b[n]);
      }
    }
    __syncthreads();
  }

  float* room = reinterpret_cast<float*>(tile);  // [in padded][M]
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int turn = 0; turn < 8 / parts_n; ++turn) {
    if (warp / parts_n == turn)
#pragma unroll
      for (int m = 0; m < tiles_m; ++m)
#pragma unroll
        for (int n = 0; n < tiles_n; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float* to = room + (m * 16 + lane / 4 + i / 2 * 8) * M + (part_n * tiles_n + n) * 8 + lane % 4 * 2 + i % 2;
            *to = (turn > 0 ? *to : 0.f) + sums[m][n][i];
          }
    __syncthreads();
  }
  const int64_t all = int64_t(g.heads) * g.ins * g.outs, norms = OF == Of::kGram ? 2 * g.heads * g.ins : 0;
  float* out = g.out + share * (all + norms);
  for (int i = threadIdx.x; i < ins * outs; i += kThreads)
    out[int64_t(first_in + i / outs) * g.outs + out_block * M + i % outs] = room[i / outs * M + i % outs];
  if constexpr (OF == Of::kGram) {
    float* squares = out + all;
    add_walkers<V, lanes>(room, own, [&](int pair, int i, float sum) {
      const int c = pair * V + i, of_k = c - K;
      if (c < ins && out_block == 0) squares[first_in + c] = sum;
      if (of_k >= 0 && of_k < outs && in_block == 0) squares[g.heads * g.ins + first_out + of_k] = sum;
    });
  }
  if constexpr (OF == Of::kWeights) {
    if (out_block > 0) return;
    add_walkers<9 * V, lanes>(room, own, [&](int pair, int i, float sum) {
      const int c = pair * V + i % V;
      if (c < ins) g.dtaps[(int64_t(split) * g.ins + first_in + c) * 9 + i / V] = sum;
    });
  }
}

template <typename Plan, Of OF>
void sum(const Sum<typename Plan::T>& g, cudaStream_t stream) {
  const int blocks = ceil_div(g.ins, Plan::kIn) * ceil_div(g.outs, Plan::kOut) * g.heads;
  AMINET_LAUNCH((sum_kernel<Plan, OF>), dim3(unsigned(int64_t(blocks) * g.groups * g.splits)), dim3(kThreads),
                size_t(SumRoom<Plan, OF>::kBytes), stream, g);
}

}  // namespace aminet::channel_attention
