// What becomes of the sums of norm_act_conv's gradient: dx, and what a block adds to dscale and dshift.
//
// da = the sums; dp = da * leaky_relu'(x * scale + shift); dx = dp * scale, dscale = sum of dp * x, dshift = sum of dp.
// A warp's sums go through shared memory as floats, so that a lane has eight channels of a pixel: x is read and dx written
// in vectors, and the sums of its octet stay in registers until the block's end.
#pragma once

#include "cuda/norm_act_conv_windows.cuh"

namespace aminet::nac {

template <typename T>
struct InputGradient {
  struct Sums {
    float scale[kOctet], shift[kOctet];
  };
  const T* x;  // [N, H, W, C]
  const float *scale, *shift;
  float slope;
  T* dx;
  float* partial;  // [2][C][blocks]: for scale, for shift
  int channels;

  template <typename P, typename S>
  __device__ __forceinline__ void take(Products<P, S>& products, Sums& sums, const Geometry& g, const Place& at,
                                       int phase_h, int phase_w, unsigned char* room) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_n = warp % S::WN, warp_m = warp / S::WN;
    constexpr int together = 32 / S::NT;  // pixels that a warp has at a time
    const int channel = blockIdx.y * S::columns + (warp_n * S::NT + lane % S::NT) * kOctet;
    const bool takes_part = lane < together * S::NT && channel < channels;
    float* stage = reinterpret_cast<float*>(room) + warp * 16 * S::finish_row;
    const int64_t image = static_cast<int64_t>(at.image) * g.rows.to * g.columns.to * channels + channel;
    const T* image_x = x + image;
    T* image_dx = dx + image;
    // Of the lane's pixels in the warp's first group: where they are, from there to those of the next.
    constexpr int turns = ceil_div(16, together), across = S::width / 8;
    const int to_next_row = g.rows.phases * g.columns.to * channels, to_next = g.columns.phases * channels;
    const bool whole = g.rows.phases * (at.row + S::height) <= g.rows.to &&
                       g.columns.phases * (at.column + S::width) <= g.columns.to;
    int first[turns];
#pragma unroll
    for (int k = 0; k < turns; ++k) {
      const Cell cell = cell_of<S>(warp_m * S::MT, lane / S::NT + k * together);
      first[k] = ((g.rows.phases * (at.row + cell.row) + phase_h) * g.columns.to +
                  g.columns.phases * (at.column + cell.column) + phase_w) * channels;
    }
    float by[kOctet] = {}, add[kOctet] = {};
    if (takes_part) {
      read_octet(by, scale + channel);
      read_octet(add, shift + channel);
    }
#pragma unroll
    for (int i = 0; i < S::MT; ++i) {
#pragma unroll
      for (int j = 0; j < S::NT; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          store(stage + (lane / 4 + 8 * half) * S::finish_row + j * kOctet + lane % 4 * 2,
                Vector<float, 2>{products.acc[i][j][2 * half], products.acc[i][j][2 * half + 1]});
      __syncwarp();
#pragma unroll
      for (int k = 0; k < turns; ++k) {
        const int number = lane / S::NT + k * together;
        if (!takes_part || number >= 16) continue;
        if (!whole) {
          const Cell cell = cell_of<S>(warp_m * S::MT + i, number);
          if (g.rows.phases * (at.row + cell.row) + phase_h >= g.rows.to ||
              g.columns.phases * (at.column + cell.column) + phase_w >= g.columns.to)
            continue;
        }
        const int to = first[k] + i / across * 2 * to_next_row + i % across * 8 * to_next;
        Octet<T> values;
        values.read(image_x + to);
        float v[kOctet], of[kOctet];
        values.widen_to(v);
        read_octet(of, stage + number * S::finish_row + lane % S::NT * kOctet);
#pragma unroll
        for (int c = 0; c < kOctet; ++c) {
          if (!(__fmaf_rn(v[c], by[c], add[c]) > 0.f)) of[c] *= slope;
          sums.scale[c] = __fmaf_rn(of[c], v[c], sums.scale[c]);
          sums.shift[c] += of[c];
          of[c] *= by[c];
        }
        values.narrow_from(of);
        values.write(image_dx + to);
      }
      __syncwarp();
    }
  }

  // All lanes of an octet, in order.
  template <typename S>
  __device__ __forceinline__ void end(const Sums& sums, unsigned char* room) const {
    constexpr int together = 32 / S::NT;
    float* all = reinterpret_cast<float*>(room);  // [2][octet's channel][threads]
#pragma unroll
    for (int c = 0; c < kOctet; ++c) {
      all[c * S::threads + threadIdx.x] = sums.scale[c];
      all[(kOctet + c) * S::threads + threadIdx.x] = sums.shift[c];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * S::columns; i += S::threads) {
      const int column = i % S::columns, channel = blockIdx.y * S::columns + column;
      if (channel >= channels) continue;
      const int octet = column / kOctet, warp_n = octet / S::NT;
      const float* from = all + ((i < S::columns ? 0 : kOctet) + column % kOctet) * S::threads;
      float sum = 0.f;
      for (int m = 0; m < S::WM; ++m)
        for (int k = 0; k < together; ++k) sum += from[(m * S::WN + warp_n) * 32 + octet % S::NT + k * S::NT];
      partial[(static_cast<int64_t>(i < S::columns ? 0 : channels) + channel) * gridDim.x * gridDim.z +
              blockIdx.x * gridDim.z + blockIdx.z] = sum;
    }
  }
};

}  // namespace aminet::nac
