// The kernel of rdfe_front_back.cuh: 16 warps walk, two of them for a channel, and store what a step has made.
#pragma once

#include "cuda/rdfe_front_back.cuh"

namespace aminet::rdfe {

// f' of STEP rows from `row` on, as BackCall::df.
template <typename T, typename W>
__device__ __forceinline__ void store_again(const BackRoom<T, W>& room, const BackCall<T>& call, const View& at, int row) {
  constexpr int OF_PLANE = W::PIXELS / 32;
  const Sizes& s = call.s;
  const int lane = unseen(threadIdx.x % LANES);
  const int64_t pixels = int64_t(s.images) * s.height * s.width, first_row = int64_t(unseen(at.n)) * s.height;
#pragma unroll 1
  for (int i = threadIdx.x / LANES; i < BRANCHES * OF_PLANE; i += W::WARPS) {
    const int branch = i / OF_PLANE, pixel = i % OF_PLANE * 32;
    uint32_t pairs[4];  // two channels of pixels lane / 4, and 8, 16, 24 further
    load_matrices<4, true>(pairs, room.out + (branch * VECTOR + lane % 8) * W::OUT_PLANE + pixel + lane / 8 * 8);
    T* to = call.out + (branch * call.views.blocks + at.channel / VECTOR) * pixels * VECTOR + lane % 4 * 2;
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) {
      const int own = pixel + chunk * 8 + lane / 4, r = row + own / W::COLUMNS, x = at.x + own % W::COLUMNS;
      if (r < at.bottom && at.owns<W>(x, s.width))
        *reinterpret_cast<uint32_t*>(to + ((first_row + r) * s.width + x) * VECTOR) = pairs[chunk];
    }
  }
}

// dy of STEP rows from `row` on: half a block's channels of a pixel a thread.
template <typename T, typename W>
__device__ __forceinline__ void store_input(const BackRoom<T, W>& room, const BackCall<T>& call, const View& at, int row) {
  constexpr int HALF = VECTOR / 2;
  const Sizes& s = call.s;
  const float* dy = reinterpret_cast<const float*>(room.out);
  const int64_t first_row = int64_t(unseen(at.n)) * s.height;
#pragma unroll 1
  for (int i = unseen(threadIdx.x); i < W::PIXELS * 2; i += W::THREADS) {
    const int pixel = i % W::PIXELS, c = i / W::PIXELS * HALF, r = row + pixel / W::COLUMNS, x = at.x + pixel % W::COLUMNS;
    if (r >= at.bottom || !at.owns<W>(x, s.width)) continue;
    const int64_t to = ((first_row + r) * s.width + x) * s.channels + at.channel + c;
    if (s.channels % HALF == 0) {
      if (c >= at.held) continue;
      auto values = load<HALF>(call.dz + to);
#pragma unroll
      for (int v = 0; v < HALF; ++v) values[v] = narrow<T>(widen(values[v]) + dy[(c + v) * W::OUT_PLANE + pixel]);
      store(call.out + to, values);
    } else {
      for (int v = 0; v < HALF && c + v < at.held; ++v)
        call.out[to + v] = narrow<T>(widen(call.dz[to + v]) + dy[(c + v) * W::OUT_PLANE + pixel]);
    }
  }
}

template <typename T, typename W, typename Role>
__device__ __forceinline__ void walk_back(const BackRoom<T, W>& room, const BackCall<T>& call, const View& at,
                                          const Source<T>& rings, const Source<T>& planes) {
  const Sizes& s = call.s;
  Role role(room, call, at);
  for (int row = at.top - 2 * W::LEAD; row < at.bottom; row += W::STEP) {
    const int place = row - at.top + 2 * W::LEAD;  // in rings, of this row
    wait_async<0>();
    __syncthreads();  // what was fetched has come, and its places' last readers are through
    turn_step<T, W>(room, at, row, place);
    __syncthreads();
    if (row + W::STEP < at.bottom) fetch_step<T, W>(rings, planes, room.stage, s, at, row + W::STEP);
    // Before the rows that are met, and above the image, where f stays zero.
    const int last = row + W::STEP - 1;
    if (last + 2 * REACH < at.top || last + REACH < 0) continue;
    role.start(s, at, row, place);
    if (row < at.top) continue;
    __syncthreads();
    role.end(place);
    if (call.out == nullptr) continue;
    __syncthreads();
    if constexpr (W::AGAIN)
      store_again<T, W>(room, call, at, row);
    else
      store_input<T, W>(room, call, at, row);
  }
  float* matrices = reinterpret_cast<float*>(room.stage);
  role.finish(matrices + threadIdx.x / LANES * MATRIX, matrices + W::WARPS * MATRIX);
}

template <typename T, int SEGMENTS, bool AGAIN, int DEPTH>
__global__ void __launch_bounds__(512, 1) back(BackCall<T> call) {
  using W = Back<SEGMENTS, AGAIN, DEPTH>;
  static_assert(W::THREADS == 512);
  AMINET_DYNAMIC_SHARED(T, all);
  const BackRoom<T, W> room(all);
  const Sizes& s = call.s;
  const View at = call.views.template view<W>(s, blockIdx.x);
  const int64_t group = int64_t(s.images) * s.height * s.width * VECTOR;
  const Source<T> y = {call.y + at.channel, 0, s.channels, s.channels % VECTOR == 0};
  const Source<T> df = {W::MADE ? call.dz : call.df + at.channel / VECTOR * group, call.views.blocks * group, VECTOR, true};
  prepare_back<T, W>(room, call, at);
  const auto walk = [&](const auto& rings, const auto& planes) {
    fetch_step<T, W>(rings, planes, room.stage, s, at, at.top - 2 * W::LEAD);
    if (threadIdx.x < W::THREADS / 2)
      walk_back<T, W, Filters<T, W>>(room, call, at, rings, planes);
    else
      walk_back<T, W, Adders<T, W>>(room, call, at, rings, planes);
  };
  if constexpr (AGAIN)
    walk(y, df);
  else
    walk(df, y);
  if (call.partial == nullptr) return;
  __syncthreads();
  const float* sums = reinterpret_cast<const float*>(room.stage) + W::WARPS * MATRIX;
  const int block = unseen(blockIdx.x), blocks = call.views.blocks, padded = blocks * VECTOR;
  float* to = call.partial + int64_t(block / blocks) * PARTIAL_ROWS * padded + block % blocks * VECTOR;
  for (int i = threadIdx.x; i < PARTIAL_ROWS * VECTOR; i += W::THREADS) to[i / VECTOR * padded + i % VECTOR] = sums[i];
}

}  // namespace aminet::rdfe
