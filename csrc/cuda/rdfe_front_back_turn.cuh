// From pixels to channels: how a step's rows get from the stage into rings and planes.
#pragma once

#include "cuda/rdfe_front_back_window.cuh"

namespace aminet::rdfe {

// 8 pixels of the stage at a time; `to` of ring k: the 8 pixels of channel lane / 4.
template <typename T, typename W>
__device__ __forceinline__ void turn_rings(const BackRoom<T, W>& room, int place) {
  constexpr int OF_ROW = W::SEGMENTS + 1, OF_RING = W::STEP * OF_ROW;
  const int lane = unseen(threadIdx.x % LANES), warp = threadIdx.x / LANES;
#pragma unroll
  for (int k = 0; k < W::RINGS; ++k) {
    const T* from = room.stage + (k * W::STEP * W::ROW + lane % 8) * VECTOR;
    T* to = room.rings + lane / 4 * W::RING_PLANE + W::first_ring(k) + lane % 4 * 2;
#pragma unroll 1
    for (int i = (warp + 5 * k) % W::WARPS; i < OF_RING; i += W::WARPS) {
      const int r = i / OF_ROW, chunk = i % OF_ROW;
      uint32_t pair[1];
      load_matrices<1, true>(pair, from + (r * W::ROW + chunk * 8) * VECTOR);
      const int in_ring = (place + W::ring_rows(k) - W::STEP + r) % W::ring_rows(k);
      *reinterpret_cast<uint32_t*>(to + in_ring * W::ROW + chunk * 8) = pair[0];
    }
  }
}

template <typename T, typename W>
__device__ __forceinline__ void turn_planes(const BackRoom<T, W>& room) {
  constexpr int OF_PLANE = W::PIXELS / 32;
  const int lane = unseen(threadIdx.x % LANES);
  const T* from = room.stage + W::RING_STAGE + lane * VECTOR;
#pragma unroll 1
  for (int i = threadIdx.x / LANES; i < W::PLANES * OF_PLANE; i += W::WARPS) {
    uint32_t pairs[4];
    load_matrices<4, true>(pairs, from + i * 32 * VECTOR);
    T* to = room.planes + (i / OF_PLANE * VECTOR + lane / 4) * W::OUT_PLANE + i % OF_PLANE * 32 + lane % 4 * 2;
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) *reinterpret_cast<uint32_t*>(to + chunk * 8) = pairs[chunk];
  }
}

// df'_k = F_k^T dz of 8 pixels at a time, with channels as rows of the products: no turning. place(i) of those pixels in a
// channel of the first branch, NEXT elements from branch to branch and `channel` from channel to channel.
template <int CHUNKS, int NEXT, typename T, typename W, typename Place>
__device__ __forceinline__ void make_df(const T* weights, const T* stage, T* to, int channel, Place place) {
  constexpr int STEPS = W::DEPTH / 16;
  const int lane = unseen(threadIdx.x % LANES);
  uint32_t a[STEPS][2][4];  // 16 inputs: channels of two branches; the second time of one
#pragma unroll
  for (int step = 0; step < STEPS; ++step)
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
      load_matrices<4>(a[step][tile], weights + (tile * 16 + lane % 16) * W::DZ_ROW + step * 16 + lane / 16 * 8);
  to += lane / 4 * channel + lane % 4 * 2;
#pragma unroll 1
  for (int i = unseen(threadIdx.x / LANES); i < CHUNKS; i += W::WARPS) {
    float sums[2][4] = {};
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      uint32_t b[2];
      load_matrices<2>(b, stage + (i * 8 + lane % 8) * W::DZ_ROW + step * 16 + lane / 8 % 2 * 8);
      mma<T>(sums[0], a[step][0], b);
      mma<T>(sums[1], a[step][1], b);
    }
    uint32_t* at = reinterpret_cast<uint32_t*>(to + place(i));
    at[0] = packed<T>(sums[0][0], sums[0][1]);
    at[NEXT / 2] = packed<T>(sums[0][2], sums[0][3]);
    at[NEXT] = packed<T>(sums[1][0], sums[1][1]);
  }
}

// place: of `row` in rings.
template <typename T, typename W>
__device__ __forceinline__ void turn_step(const BackRoom<T, W>& room, const View& at, int row, int place) {
  if constexpr (W::MADE && !W::AGAIN) {
    constexpr int OF_ROW = W::SEGMENTS + 1;
    const auto in_ring = [&](int i) {
      return (place + 2 * REACH + i / OF_ROW) % W::Y_ROWS * W::ROW + i % OF_ROW * 8;
    };
    make_df<W::STEP * OF_ROW, W::Y_USED, T, W>(room.weights, room.stage, room.rings, W::RING_PLANE, in_ring);
  } else {
    turn_rings<T, W>(room, place);
  }
  if (row < at.top) return;
  if constexpr (W::MADE && W::AGAIN)
    make_df<W::PIXELS / 8, VECTOR * W::OUT_PLANE, T, W>(room.weights, room.stage + W::RING_STAGE, room.planes,
                                                        W::OUT_PLANE, [](int i) { return i * 8; });
  else
    turn_planes<T, W>(room);
}

}  // namespace aminet::rdfe
