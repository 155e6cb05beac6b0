// The backward's two walks on tensor cores, of data of 16 bits:
//
//   back<true>   y, df'_k  ->  f'_k (for dF) and, of every block, S2_k[tap] = sum f_k[p + tap] df'_k[p] and sum df'_k
//   back<false>  df'_k, y, dz  ->  dy = sum_k DW1_k^T(df_k) + dz and S1_k[tap] = sum y[p + tap] df_k[p] and sum df_k
//
// with f_k = DW1_k(y) + b_k and df_k = a DW2_k^T(df'_k) + const_k made again in rings: 7 and 6 images are moved, or 5 and 3
// (y, dz and f'; y, dz and dy) where a walk makes df'_k = F_k^T dz of up to 48 channels as it turns them. What follows from S2 (dW2, db2, da, and from da const_k, which the second walk needs) is in rdfe_front_unit.cuh.
#pragma once

#include "cuda/rdfe_front_back_sums.cuh"

namespace aminet::rdfe {

template <typename T>
struct BackCall {
  const T *y, *df, *dz;         // df: df' as [branch][block of 8 channels][pixel][8]
  T* out;                       // f' as df', or dy; null: not wanted
  const float *a, *constant;    // [N, C]; [branch][N, C]
  Depthwise first, second;
  Parameter fuse;
  float* partial;               // [image and window][PARTIAL_ROWS][8 blocks]; null: not wanted
  Sizes s;
  Views views;
};

template <typename T, typename W>
__device__ __forceinline__ void prepare_back(const BackRoom<T, W>& room, const BackCall<T>& call, const View& at) {
  const Sizes& s = call.s;
  const int64_t images = int64_t(s.images) * s.channels;
  for (int i = threadIdx.x; i < VECTOR; i += W::THREADS) {
    const bool there = i < at.held;
    const int c = there ? at.channel + i : 0;
    const int64_t of_image = int64_t(at.n) * s.channels + c;
    float* to = room.scalars + i * 8;
#pragma unroll
    for (int k = 0; k < BRANCHES; ++k) {
      to[k] = !there ? 0.f : W::AGAIN ? call.first.bias[k].template at<T>(c) : call.constant[k * images + of_image];
      to[3 + k] = there && W::AGAIN ? call.second.bias[k].template at<T>(c) : 0.f;
    }
    const float a = there ? call.a[of_image] : 0.f;
    to[6] = W::AGAIN ? 1.f : a, to[7] = a;
  }
  for (int i = threadIdx.x; i < VECTOR * 2 * SMALL; i += W::THREADS) {
    const int c = i / (2 * SMALL), row = i % SMALL / PAIRS_OF_3, tap = i % PAIRS_OF_3 - 1;
    const bool of_first = (i % (2 * SMALL) < SMALL) == W::AGAIN;
    const Parameter weight = of_first ? call.first.weight[0] : call.second.weight[0];
    const auto value = [&](int j) {
      const int at_tap = W::AGAIN ? row * 3 + j : 8 - row * 3 - j;
      return c < at.held && j >= 0 && j < 3 ? weight.at<T>(int64_t(at.channel + c) * 9 + at_tap) : 0.f;
    };
    room.small[i] = packed<T>(value(tap), value(tap + 1));
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < W::WEIGHTS; i += W::THREADS) {
    const int k = i / W::DZ_ROW / VECTOR, c = i / W::DZ_ROW % VECTOR, out = i % W::DZ_ROW;
    const bool there = k < BRANCHES && c < at.held && out < s.channels;
    const int64_t from = int64_t(out) * BRANCHES * s.channels + k * s.channels + at.channel + c;
    room.weights[i] = narrow<T>(there ? call.fuse.template at<T>(from) : 0.f);
  }
  uint32_t* f = reinterpret_cast<uint32_t*>(room.f);  // beside and above the image
#pragma unroll 1
  for (int i = threadIdx.x; i < VECTOR * W::F_PLANE / 2; i += W::THREADS) f[i] = 0;
}

// A warp's part in both roles: one channel's rings, planes and scalars.
template <typename T, typename W>
struct Channel {
  const T *ring, *plane;
  T *f, *out;
  float* dy;
  const float* scalars;
  const uint32_t* small;
  int index;
  __device__ __forceinline__ Channel(const BackRoom<T, W>& room, int c)
      : ring(room.rings + c * W::RING_PLANE),
        plane(room.planes + c * W::OUT_PLANE),
        f(room.f + c * W::F_PLANE),
        out(room.out + c * W::OUT_PLANE),
        dy(reinterpret_cast<float*>(room.out) + c * W::OUT_PLANE),
        scalars(room.scalars + c * 8),
        small(room.small + c * 2 * SMALL),
        index(c) {}
};

// df_k instead of a f_k, and its sums over the window's own pixels.
template <typename W>
struct Backwards {
  const Sizes& s;
  const View& at;
  float& total;
  __device__ __forceinline__ static float made(float sum, float constant, float scale) { return fmaf(sum, scale, constant); }
  __device__ __forceinline__ void seen(int, int row, int x, float low, float high) {
    if (row < at.top || row >= at.bottom) return;
    total += at.template owns<W>(x, s.width) ? low : 0.f;
    total += at.template owns<W>(x + 1, s.width) ? high : 0.f;
  }
};

// df_k of one branch, from its own ring.
template <int BRANCH, typename T, typename W>
__device__ __forceinline__ void filter_ring(const Channel<T, W>& own, const Bands& bands, const Sizes& s, const View& at,
                                            int row, int place, float& total) {
  filter_first<BRANCH, BRANCH, T, W, W::ring_rows(BRANCH)>(own.ring + W::first_ring(BRANCH), own.f, bands, own.small,
                                                           own.scalars, s, at, row, place, Backwards<W>{s, at, total});
}

// Makes 7 taps of the first convolution, 5 and 7 of the second, with df_k 3 too, and S of 3.
template <typename T, typename W>
struct Filters {
  Channel<T, W> own;
  Bands first, second;
  float sums[3][4] = {}, planes[4] = {}, total = 0.f;

  __device__ __forceinline__ Filters(const BackRoom<T, W>& room, const BackCall<T>& call, const View& at)
      : own(room, threadIdx.x / LANES) {
    constexpr bool TURNED = !W::AGAIN;
    const int64_t c = at.channel + own.index;
    const bool there = own.index < at.held;
    const Depthwise &one = W::AGAIN ? call.first : call.second, &two = W::AGAIN ? call.second : call.first;
    Bands::fill<T, TURNED>(one.weight[2], c, there, first.of7);
    Bands::fill<T, TURNED>(two.weight[1], c, there, second.of5);
    Bands::fill<T, TURNED>(two.weight[2], c, there, second.of7);
  }

  __device__ __forceinline__ void start(const Sizes& s, const View& at, int row, int place) {
    if constexpr (W::AGAIN)
      filter_first<2, 2, T, W>(own.ring, own.f, first, own.small, own.scalars, s, at, row, place);
    else
      filter_ring<2, T, W>(own, first, s, at, row, place, total);
  }

  __device__ __forceinline__ void end(int place) {
    if constexpr (W::AGAIN) {
      filter_second<5, T, W>(own.f, own.out, second.of5, own.scalars[7], own.scalars[4], place);
      filter_second<7, T, W>(own.f, own.out, second.of7, own.scalars[7], own.scalars[5], place);
    } else {
      input_rows(place);
    }
    uint32_t b[W::TILES][2];
    read_plane<T, W>(own.plane, b);
    correlate<3, T, W>(own.f, b, place, sums);
    if constexpr (W::AGAIN) {
      constexpr int NEXT = VECTOR * W::OUT_PLANE;
      add_plane<0, T, W>(b, planes);
      read_plane<T, W>(own.plane + NEXT, b);
      add_plane<1, T, W>(b, planes);
      read_plane<T, W>(own.plane + 2 * NEXT, b);
      add_plane<2, T, W>(b, planes);
    }
  }

  __device__ __forceinline__ void input_rows(int place) {
    float found[W::TILES][4] = {};
    uint32_t of3[3][2];
    band_matrices_of_3(own.small + SMALL, of3);
    add_second<3, T, W>(own.f, of3, place, found);
    add_second<5, T, W>(own.f, second.of5, place, found);
    add_second<7, T, W>(own.f, second.of7, place, found);
    const int lane = threadIdx.x % LANES;
#pragma unroll
    for (int tile = 0; tile < W::TILES; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Vector<float, 2> pair;
        pair[0] = found[tile][2 * half], pair[1] = found[tile][2 * half + 1];
        store(own.dy + (tile * 16 + lane / 4 + 8 * half) * 8 + lane % 4 * 2, pair);
      }
  }

  __device__ __forceinline__ void finish(float* matrix, float* to) {
    to += own.index;
    put_taps<3, !W::AGAIN>(sums, matrix, to);
    if constexpr (W::AGAIN)
#pragma unroll
      for (int k = 0; k < BRANCHES; ++k)
        put_total(threadIdx.x % LANES / 4 == k ? planes[0] + planes[1] : 0.f, k, to);
    else
      put_total(total, 2, to);
  }
};

// Makes 3 and 5 taps of the first convolution, with f_k 3 of the second, and S of 5 and 7.
template <typename T, typename W>
struct Adders {
  Channel<T, W> own;
  Bands first;
  float sums5[5][4] = {}, sums7[7][4] = {}, totals[2] = {};

  __device__ __forceinline__ Adders(const BackRoom<T, W>& room, const BackCall<T>& call, const View& at)
      : own(room, threadIdx.x / LANES - VECTOR) {
    Bands::fill<T, !W::AGAIN>((W::AGAIN ? call.first : call.second).weight[1], at.channel + own.index,
                              own.index < at.held, first.of5);
  }

  __device__ __forceinline__ void start(const Sizes& s, const View& at, int row, int place) {
    if constexpr (W::AGAIN) {
      filter_first<0, 1, T, W>(own.ring, own.f, first, own.small, own.scalars, s, at, row, place);
    } else {
      filter_ring<0, T, W>(own, first, s, at, row, place, totals[0]);
      filter_ring<1, T, W>(own, first, s, at, row, place, totals[1]);
    }
  }

  __device__ __forceinline__ void end(int place) {
    constexpr int NEXT = W::AGAIN ? VECTOR * W::OUT_PLANE : 0;  // the same plane for all
    if constexpr (W::AGAIN) {
      uint32_t of3[3][2];
      band_matrices_of_3(own.small + SMALL, of3);
      filter_second<3, T, W>(own.f, own.out, of3, own.scalars[7], own.scalars[3], place);
    }
    uint32_t b[W::TILES][2];
    read_plane<T, W>(own.plane + NEXT, b);
    correlate<5, T, W>(own.f, b, place, sums5);
    if constexpr (W::AGAIN) read_plane<T, W>(own.plane + 2 * NEXT, b);
    correlate<7, T, W>(own.f, b, place, sums7);
  }

  __device__ __forceinline__ void finish(float* matrix, float* to) {
    to += own.index;
    put_taps<5, !W::AGAIN>(sums5, matrix, to);
    put_taps<7, !W::AGAIN>(sums7, matrix, to);
    if constexpr (!W::AGAIN) {
      put_total(totals[0], 0, to);
      put_total(totals[1], 1, to);
    }
  }
};

}  // namespace aminet::rdfe
