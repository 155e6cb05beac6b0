// What becomes of norm_act_conv's forward sums: y, and the moments of its channels, which are of y as it is rounded.
//
// A warp's sums go through shared memory, so that y is written in vectors of 16 bytes, pixel by pixel. Moments in two
// stages, in an order that shapes give: mean and squares about it of each warp's pixels, from registers, put together by
// Chan's formula for a block, and then for all blocks (moments_kernel). There is no pass over y.
#pragma once

#include "cuda/norm_act_conv_windows.cuh"

namespace aminet::nac {

// Of n values: their mean, and the sum of squares about it.
struct Moments {
  float n, mean, squares;

  __device__ __forceinline__ void join(const Moments& other) {
    if (other.n == 0.f) return;
    const float both = n + other.n, apart = other.mean - mean;
    squares += other.squares + apart * apart * (n * other.n / both);
    mean += apart * (other.n / both);
    n = both;
  }
};

// Cells of a block's image from (row, column) on, at most height x width.
__device__ __forceinline__ int cells_inside(const Geometry& g, int row, int column, int height, int width) {
  return max(0, min(height, g.rows.cells - row)) * max(0, min(width, g.columns.cells - column));
}

template <typename T>
struct Convolved {
  struct Sums {};
  T* y;            // [N, H', W', K]
  float* partial;  // [2][K][parts], then the pixels of each part; null without moments
  int outputs;
  int64_t parts;

  template <typename P, typename S>
  __device__ __forceinline__ void take(Products<P, S>& products, Sums&, const Geometry& g, const Place& at, int phase_h,
                                       int phase_w, unsigned char* room) const {
    const bool whole = at.row + S::height <= g.rows.cells && at.column + S::width <= g.columns.cells &&
                       (blockIdx.y + 1) * S::columns <= outputs;
    float* moments = reinterpret_cast<float*>(room) + S::finish_floats;
    if (whole)
      of_warp<P, S, true>(products, g, at, phase_h, phase_w, room, moments);
    else
      of_warp<P, S, false>(products, g, at, phase_h, phase_w, room, moments);
    if (!partial) return;
    __syncthreads();
    of_block<S>(g, at, moments, at.tile * static_cast<int64_t>(g.rows.phases * g.columns.phases) +
                                    phase_h * g.columns.phases + phase_w);
  }

  // WHOLE: nothing of the block is outside.
  template <typename P, typename S, bool WHOLE>
  __device__ __forceinline__ void of_warp(Products<P, S>& products, const Geometry& g, const Place& at, int phase_h,
                                          int phase_w, unsigned char* room, float* moments) const {
    constexpr int copies = ceil_div(16 * S::NT, 32), across = S::width / 8;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_n = warp % S::WN, warp_m = warp / S::WN;
    const int first = blockIdx.y * S::columns + warp_n * S::NT * kOctet;
    T* stage = reinterpret_cast<T*>(reinterpret_cast<float*>(room) + warp * 16 * S::finish_row);
    T* image = y + static_cast<int64_t>(at.image) * g.rows.to * g.columns.to * outputs;
    T* mine = stage + lane / 4 * S::finish_row + lane % 4 * 2;
    const int to_next_row = g.rows.phases * g.columns.to * outputs, to_next = g.columns.phases * outputs;
    int to[copies];  // of this lane's vectors in the warp's first group of pixels
#pragma unroll
    for (int k = 0; k < copies; ++k) {
      const int copy = lane + 32 * k;
      const Cell cell = cell_of<S>(warp_m * S::MT, copy / S::NT);
      to[k] = (g.rows.phases * (at.row + cell.row) + phase_h) * g.columns.to * outputs +
              (g.columns.phases * (at.column + cell.column) + phase_w) * outputs + first + copy % S::NT * kOctet;
    }
#pragma unroll
    for (int i = 0; i < S::MT; ++i) {
#pragma unroll
      for (int j = 0; j < S::NT; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float* sums = &products.acc[i][j][2 * half];
          const Vector<T, 2> pair = narrow_pair<T>(sums[0], sums[1]);
          store(mine + half * 8 * S::finish_row + j * kOctet, pair);
          widen_pair<T>(pair.values, sums[0], sums[1]);
        }
      __syncwarp();
#pragma unroll
      for (int k = 0; k < copies; ++k) {
        const int copy = lane + 32 * k, number = copy / S::NT, octet = copy % S::NT;
        if (16 * S::NT % 32 && number >= 16) break;
        if constexpr (!WHOLE) {
          const Cell cell = cell_of<S>(warp_m * S::MT + i, number);
          if (at.row + cell.row >= g.rows.cells || at.column + cell.column >= g.columns.cells ||
              first + octet * kOctet >= outputs)
            continue;
        }
        Octet<T> values;
        values.read(stage + number * S::finish_row + octet * kOctet);
        values.write(image + to[k] + i / across * 2 * to_next_row + i % across * 8 * to_next);
      }
      __syncwarp();
    }
    if (partial) moments_of_warp<P, S, WHOLE>(products, g, at, moments);
  }

  template <typename S>
  static __device__ __forceinline__ int pixels_of_warp(const Geometry& g, const Place& at, int warp_m) {
    int pixels = 0;
#pragma unroll
    for (int i = 0; i < S::MT; ++i) {
      const Cell cell = cell_of<S>(warp_m * S::MT + i, 0);
      pixels += cells_inside(g, at.row + cell.row, at.column + cell.column, 2, 8);
    }
    return pixels;
  }

  // Mean and squares of the warp's pixels to moments [WM][columns][2]: of each lane's, then joined.
  template <typename P, typename S, bool WHOLE>
  __device__ __forceinline__ void moments_of_warp(const Products<P, S>& products, const Geometry& g, const Place& at,
                                                  float* moments) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_n = warp % S::WN, warp_m = warp / S::WN;
    bool inside[S::MT][2];
    int pixels = 0;
#pragma unroll
    for (int i = 0; i < S::MT; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Cell cell = cell_of<S>(warp_m * S::MT + i, lane / 4 + 8 * half);
        inside[i][half] = WHOLE || (at.row + cell.row < g.rows.cells && at.column + cell.column < g.columns.cells);
        pixels += inside[i][half];
      }
    const float inverse = pixels ? 1.f / static_cast<float>(pixels) : 0.f;
    float mean[2 * S::NT], squares[2 * S::NT];
#pragma unroll
    for (int c = 0; c < 2 * S::NT; ++c) {
      const auto over_pixels = [&](auto&& of) {
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < S::MT; ++i)
#pragma unroll
          for (int half = 0; half < 2; ++half)
            if (inside[i][half]) sum = of(sum, products.acc[i][c / 2][2 * half + c % 2]);
        return sum;
      };
      mean[c] = over_pixels([](float sum, float v) { return sum + v; }) * inverse;
      squares[c] = over_pixels([&](float sum, float v) { return __fmaf_rn(v - mean[c], v - mean[c], sum); });
    }
    join_lanes<4, WHOLE>(mean, squares, static_cast<float>(pixels), 0, true, [&](int c, float of_mean, float of_squares) {
      const int column = (warp_n * S::NT + c / 2) * kOctet + lane % 4 * 2 + c % 2;
      store(moments + (warp_m * S::columns + column) * 2, Vector<float, 2>{of_mean, of_squares});
    });
  }

  // Over the lanes that have the same columns, DISTANCE and more apart: of two, each goes on with half of the columns, where
  // these have halves. n: the lane's pixels; SAME: all have as many. write(c, mean, squares) of the columns from `first` on.
  template <int DISTANCE, bool SAME, int COUNT, typename Write>
  static __device__ __forceinline__ void join_lanes(const float (&mean)[COUNT], const float (&squares)[COUNT], float n,
                                                    int first, bool writes, Write&& write) {
    if constexpr (DISTANCE == 32) {
#pragma unroll
      for (int i = 0; i < COUNT; ++i)
        if (writes) write(first + i, mean[i], squares[i]);
    } else {
      constexpr bool halves = COUNT % 2 == 0;
      constexpr int kept = halves ? COUNT / 2 : COUNT, given = COUNT - kept;  // of the upper one: the first that it has
      const bool upper = threadIdx.x & DISTANCE;
      const float others = SAME ? n : __shfl_xor_sync(0xffffffffu, n, DISTANCE), both = n + others;
      const float part = SAME ? 0.5f : both > 0.f ? others / both : 0.f;
      float joined[kept], about[kept];
#pragma unroll
      for (int i = 0; i < kept; ++i) {
        const float own = upper ? mean[i + given] : mean[i], own_squares = upper ? squares[i + given] : squares[i];
        const float sent = upper ? mean[i] : mean[i + given], sent_squares = upper ? squares[i] : squares[i + given];
        const float apart = __shfl_xor_sync(0xffffffffu, sent, DISTANCE) - own;
        joined[i] = __fmaf_rn(apart, part, own);
        about[i] = own_squares + __shfl_xor_sync(0xffffffffu, sent_squares, DISTANCE) + apart * apart * (n * part);
      }
      join_lanes<DISTANCE * 2, SAME>(joined, about, both, upper ? first + given : first, writes && (halves || !upper),
                                     write);
    }
  }

  template <typename S>
  __device__ __forceinline__ void of_block(const Geometry& g, const Place& at, const float* moments, int64_t part) const {
    const int column = threadIdx.x, channel = blockIdx.y * S::columns + column;
    if (column >= S::columns || channel >= outputs) return;
    Moments all = {};
#pragma unroll
    for (int m = 0; m < S::WM; ++m) {
      const float* of = moments + (m * S::columns + column) * 2;
      all.join({static_cast<float>(pixels_of_warp<S>(g, at, m)), of[0], of[1]});
    }
    partial[channel * parts + part] = all.mean;
    partial[(outputs + channel) * parts + part] = all.squares;
    if (channel == 0) partial[2 * outputs * parts + part] = all.n;
  }

  template <typename S>
  __device__ __forceinline__ void end(const Sums&, unsigned char*) const {}
};

// mean and biased variance [K], count pixels, of partial: a channel a block. First the mean, then squares about it.
__global__ void __launch_bounds__(256)
    moments_kernel(const float* partial, float* mean, float* var, int64_t parts, float count) {
  AMINET_SHARED(float, sums, [2][8]);
  const int channel = blockIdx.x;
  const float* means = partial + channel * parts;
  const float* squares = partial + (gridDim.x + channel) * parts;
  const float* pixels = partial + 2 * gridDim.x * parts;
  const auto of_block = [&](float v, float* of_warps) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0.f;
    for (int i = 0; i < 8; ++i) v += of_warps[i];
    return v;
  };
  float sum = 0.f;
  for (int64_t part = threadIdx.x; part < parts; part += 256) sum = __fmaf_rn(pixels[part], means[part], sum);
  const float all = of_block(sum, sums[0]) / count;
  sum = 0.f;
  for (int64_t part = threadIdx.x; part < parts; part += 256) {
    const float apart = means[part] - all;
    sum += __fmaf_rn(pixels[part] * apart, apart, squares[part]);
  }
  sum = of_block(sum, sums[1]);
  if (threadIdx.x != 0) return;
  mean[channel] = all;
  var[channel] = sum / count;
}

}  // namespace aminet::nac
