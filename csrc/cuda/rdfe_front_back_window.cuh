// What a block of the backward's kernels on tensor cores has of an image, and how it comes into shared memory.
//
// Windows of 8 channels that walk down a band as the forward's do (rdfe_front_window.cuh). Two images, or three for each:
// those that a first convolution reads come with a margin into rings, a channel and branch each, those that the sums read
// come without one into planes of STEP rows, 0 where the pixel is not this window's own:
//
//      AGAIN      ring of y,    planes of df'_k      f_k   = DW_k(y) + b_k;               f'_k out, S2 = sum of f_k df'_k
//      otherwise  rings of df'_k, plane of y         df_k  = a DW2_k^T(df'_k) + const_k;  dy out,   S1 = sum of y df_k
//
// 16 warps, two for a channel: most of the filters are one's, most of S from the same rings of f_k or df_k the other's, dealt
// out so that both have 7 or 8 rows of taps of the first convolution, then 15 or 18 and 12 of the rest, and registers for it.
#pragma once

#include "cuda/rdfe_front_bands.cuh"

namespace aminet::rdfe {

// A matrix of products for each warp and, at last, what a block has added up [PARTIAL_ROWS][8]; where stage and rings were.
constexpr int MATRIX = 16 * 8, SUMS_BYTES = VECTOR * (2 * MATRIX + PARTIAL_ROWS) * 4;

// DEPTH: 0, or so many channels of dz from which df'_k is made here instead of being read.
template <int SEGMENTS_, bool AGAIN_, int DEPTH_>
struct Back : Window<SEGMENTS_, VECTOR, 1> {
  using Base = Window<SEGMENTS_, VECTOR, 1>;
  static constexpr bool AGAIN = AGAIN_, MADE = DEPTH_ > 0;
  static constexpr int DEPTH = DEPTH_, DZ_ROW = DEPTH + 8;  // of a pixel in the stage: eight meet all banks
  static constexpr int WARPS = 2 * Base::WARPS, THREADS = WARPS * LANES;
  static constexpr int RINGS = AGAIN ? 1 : BRANCHES, PLANES = AGAIN ? BRANCHES : 1;
  // Of ring k; those that are made come at once for all branches.
  static constexpr bool ALIKE = AGAIN || MADE;
  __host__ __device__ static constexpr int ring_rows(int k) { return ALIKE ? Base::Y_ROWS : Base::f_rows(k); }
  __host__ __device__ static constexpr int first_ring(int k) { return ALIKE ? k * Base::Y_USED : Base::first_f(k); }
  static constexpr int RING_USED = ALIKE ? RINGS * Base::Y_USED : Base::F_PLANE;
  static constexpr int RING_PLANE = RING_USED + (72 - RING_USED % 64) % 64;  // see Y_PLANE
  // Elements of the stage: of all rings, then of all planes.
  static constexpr int RING_STAGE = Base::STEP * Base::ROW * (!AGAIN && MADE ? DZ_ROW : RINGS * VECTOR);
  static constexpr int PLANE_STAGE = Base::STEP * Base::COLUMNS * (AGAIN && MADE ? DZ_ROW : PLANES * VECTOR);
  static constexpr int STAGE = RING_STAGE + PLANE_STAGE;
  static constexpr int WEIGHTS = MADE ? 32 * DZ_ROW : 0;  // F^T of 24 inputs
  static constexpr int OUT = AGAIN ? BRANCHES : 2;  // planes of T that outputs take: dy is float
  static constexpr int VALUES =
      STAGE + WEIGHTS + VECTOR * (RING_PLANE + Base::F_PLANE + (PLANES + OUT) * Base::OUT_PLANE);
  static constexpr int BYTES = VALUES * 2 + (Base::SCALARS + VECTOR * 2 * SMALL) * 4;
  static_assert((STAGE + VECTOR * RING_PLANE) * 2 >= SUMS_BYTES);
};

// An image as windows read it, or one for each branch, `next` elements apart: of a channel block, `step` elements from
// pixel to pixel.
template <typename T>
struct Source {
  const T* from;
  int64_t next;
  int step;
  bool vectors;
};

template <typename T, typename W>
struct BackRoom {
  T *stage, *rings, *f, *planes;  // [..][STEP][ROW or COLUMNS][8]; [8][RING_PLANE]; [8][F_PLANE]; [PLANES][8][OUT_PLANE]
  T *out, *weights;               // [BRANCHES][8][OUT_PLANE], or float [8][OUT_PLANE]; [32][DZ_ROW]
  float* scalars;                 // [8][shift, shift, shift, bias', bias', bias', scale, scale']
  uint32_t* small;                // [8][2][SMALL]
  __device__ __forceinline__ explicit BackRoom(T* all)
      : stage(all),
        rings(stage + W::STAGE),
        f(rings + VECTOR * W::RING_PLANE),
        planes(f + VECTOR * W::F_PLANE),
        out(planes + W::PLANES * VECTOR * W::OUT_PLANE),
        weights(out + W::OUT * VECTOR * W::OUT_PLANE),
        scalars(reinterpret_cast<float*>(all + W::VALUES)),
        small(reinterpret_cast<uint32_t*>(scalars + W::SCALARS)) {}
};

// STEP rows from `row` on, WIDTH columns from `column` on, to [STEP][WIDTH][8]; zeros outside of the image and, if OWNED,
// of the window's own pixels.
template <int WIDTH, bool OWNED, typename T, typename W>
__device__ __forceinline__ void fetch_rows(const Source<T>& source, int branch, T* stage, const Sizes& s,
                                           const View& at, int row, int column) {
  const int bottom = OWNED ? at.bottom : s.height;
  const T* const image = source.from + branch * source.next + int64_t(unseen(at.n)) * s.height * s.width * source.step;
#pragma unroll 1
  for (int i = unseen(threadIdx.x); i < W::STEP * WIDTH; i += W::THREADS) {
    const int r = row + i / WIDTH, x = column + i % WIDTH;
    const bool inside = r >= 0 && r < bottom && x >= 0 && x < s.width && (!OWNED || at.owns<W>(x, s.width));
    const T* from = inside ? image + (int64_t(r) * s.width + x) * source.step : source.from;
    if (source.vectors) {
      copy_async<16>(stage + i * VECTOR, from, inside);
    } else {
      for (int c = 0; c < VECTOR; ++c) stage[i * VECTOR + c] = inside && c < at.held ? from[c] : narrow<T>(0.f);
    }
  }
}

// The same of all channels of dz, to [STEP][WIDTH][DZ_ROW].
template <int WIDTH, bool OWNED, typename T, typename W>
__device__ __forceinline__ void fetch_dz(const T* dz, T* stage, const Sizes& s, const View& at, int row, int column) {
  constexpr int GROUPS = W::DEPTH / VECTOR;
  const int bottom = OWNED ? at.bottom : s.height;
  const T* const image = dz + int64_t(unseen(at.n)) * s.height * s.width * s.channels;
#pragma unroll 1
  for (int i = unseen(threadIdx.x); i < W::STEP * WIDTH * GROUPS; i += W::THREADS) {
    const int pixel = i / GROUPS, c = i % GROUPS * VECTOR, r = row + pixel / WIDTH, x = column + pixel % WIDTH;
    const bool inside = r >= 0 && r < bottom && x >= 0 && x < s.width && c < s.channels &&
                        (!OWNED || at.owns<W>(x, s.width));
    const T* from = inside ? image + (int64_t(r) * s.width + x) * s.channels + c : dz;
    copy_async<16>(stage + pixel * W::DZ_ROW + c, from, inside);
  }
}

// What the step at `row` needs.
template <typename T, typename W>
__device__ __forceinline__ void fetch_step(const Source<T>& rings, const Source<T>& planes, T* stage, const Sizes& s,
                                           const View& at, int row) {
  constexpr int RING = W::STEP * W::ROW * VECTOR, PLANE = W::STEP * W::COLUMNS * VECTOR;
  T* const of_planes = stage + W::RING_STAGE;
  if constexpr (W::MADE && !W::AGAIN) {
    fetch_dz<W::ROW, false, T, W>(rings.from, stage, s, at, row + 2 * REACH, at.x - MARGIN);
  } else {
#pragma unroll 1
    for (int k = 0; k < W::RINGS; ++k)
      fetch_rows<W::ROW, false, T, W>(rings, k, stage + k * RING, s, at, row + W::ring_rows(k) - W::STEP, at.x - MARGIN);
  }
  if (row >= at.top) {
    if constexpr (W::MADE && W::AGAIN) {
      fetch_dz<W::COLUMNS, true, T, W>(planes.from, of_planes, s, at, row, at.x);
    } else {
#pragma unroll 1
      for (int k = 0; k < W::PLANES; ++k)
        fetch_rows<W::COLUMNS, true, T, W>(planes, k, of_planes + k * PLANE, s, at, row, at.x);
    }
  }
  commit_async();
}

}  // namespace aminet::rdfe
