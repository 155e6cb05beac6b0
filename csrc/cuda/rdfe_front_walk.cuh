// The forward's walk of a window from top to bottom: rings of y and a f_k, rows of f' out (rdfe_front_bands.cuh).
#pragma once

#include "cuda/rdfe_front_bands.cuh"

namespace aminet::rdfe {

template <typename T, typename W>
__device__ __forceinline__ void prepare(const Room<T, W>& room, const float* a, const Depthwise& first,
                                        const Depthwise& second, const Sizes& s, const View& at) {
  for (int i = threadIdx.x; i < W::CHANNELS; i += W::THREADS) {
    const bool there = i < at.held;
    const int c = there ? at.channel + i : 0;
#pragma unroll
    for (int branch = 0; branch < BRANCHES; ++branch) {
      room.scalars[i * 8 + branch] = there ? first.bias[branch].at<T>(c) : 0.f;
      room.scalars[i * 8 + 3 + branch] = there ? second.bias[branch].at<T>(c) : 0.f;
    }
    room.scalars[i * 8 + 6] = there ? a[int64_t(at.n) * s.channels + c] : 0.f;
  }
  for (int i = threadIdx.x; i < W::CHANNELS * 2 * SMALL; i += W::THREADS) {
    const int c = i / (2 * SMALL), row = i % SMALL / PAIRS_OF_3, tap = i % PAIRS_OF_3 - 1;
    const Parameter weight = i % (2 * SMALL) < SMALL ? first.weight[0] : second.weight[0];
    const auto value = [&](int j) {
      return c < at.held && j >= 0 && j < 3 ? weight.at<T>((int64_t(at.channel + c) * 3 + row) * 3 + j) : 0.f;
    };
    room.small[i] = packed<T>(value(tap), value(tap + 1));
  }
  // f_k beside and above the image.
  uint32_t* f = reinterpret_cast<uint32_t*>(room.f);
#pragma unroll 1
  for (int i = threadIdx.x; i < W::CHANNELS * W::F_PLANE / 2; i += W::THREADS) f[i] = 0;
}

// Walks a block's window from top to bottom; finish(row) by all threads where room.out has f' of STEP rows.
template <typename T, typename W, typename Finish>
__device__ __forceinline__ void walk(const T* y, const float* a, const Depthwise& first, const Depthwise& second,
                                     const Sizes& s, const View& at, const Room<T, W>& room, Finish finish) {
  const int own = threadIdx.x / LANES * W::EACH;  // a warp's channels
  fetch<T, W>(y, room.stage, s, at, at.top - 2 * W::LEAD + 2 * REACH);
  Bands bands[W::EACH][2];
#pragma unroll
  for (int i = 0; i < W::EACH; ++i) {
    bands[i][0].template make<T>(first, at.channel + own + i, own + i < at.held);
    bands[i][1].template make<T>(second, at.channel + own + i, own + i < at.held);
  }
  prepare<T, W>(room, a, first, second, s, at);
  for (int row = at.top - 2 * W::LEAD; row < at.bottom; row += W::STEP) {
    const int place = row - at.top + 2 * W::LEAD;  // in rings, of this row
    wait_async<0>();
    __syncthreads();  // y has come, and its ring's last readers are through
    turn<T, W>(room.stage, room.y, place + 2 * REACH);
    __syncthreads();
    if (row + W::STEP < at.bottom) fetch<T, W>(y, room.stage, s, at, row + W::STEP + 2 * REACH);
    // Before the rows that are met, and above the image, where f stays zero.
    const int last = row + W::STEP - 1;
    if (last + 2 * REACH < at.top || last + REACH < 0) continue;
#pragma unroll
    for (int i = 0; i < W::EACH; ++i) {
      const int c = own + i;
      const T* from = room.y + c * W::Y_PLANE;
      T* f = room.f + c * W::F_PLANE;
      const float* scalars = room.scalars + c * 8;
      const uint32_t* small = room.small + c * 2 * SMALL;
      if constexpr (W::EACH == 1 && W::SEGMENTS != 4) {
        filter_first<0, 2, T, W>(from, f, bands[i][0], small, scalars, s, at, row, place);
      } else {  // fewer sums at a time, for want of registers
        filter_first<2, 2, T, W>(from, f, bands[i][0], small, scalars, s, at, row, place);
        filter_first<0, 1, T, W>(from, f, bands[i][0], small, scalars, s, at, row, place);
      }
    }
    if (row < at.top) continue;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < W::EACH; ++i) {
      const int c = own + i;
      const T* f = room.f + c * W::F_PLANE;
      const float* bias = room.scalars + c * 8 + 3;
      T* out = room.out + c * W::OUT_PLANE;
      uint32_t of3[3][2];
      band_matrices_of_3(room.small + (c * 2 + 1) * SMALL, of3);
      filter_second<3, T, W>(f, out, of3, 1.f, bias[0], place);
      filter_second<5, T, W>(f, out, bands[i][1].of5, 1.f, bias[1], place);
      filter_second<7, T, W>(f, out, bands[i][1].of7, 1.f, bias[2], place);
    }
    __syncthreads();
    finish(row);
  }
}

}  // namespace aminet::rdfe
