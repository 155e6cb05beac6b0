// skaf_gate's loops over the two maps, vectors along a row. The rows are bordered (csrc/cpu/skaf_gate.h).
#pragma once

#include "cpu/skaf_gate.h"
#include "vectors.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// kCount vectors of one row of both output maps: bias + sum over the two input maps and the taps.
template <typename Acc, int kCount>
inline void convolve_tile(const SkafGateShape& s, const Acc* from, const Acc* weight, const Acc* bias, Acc* z0,
                          Acc* z1) {
  const int64_t K = s.kernel, pitch = s.pitch(), plane = s.plane();
  Vector<Acc> sum[2][kCount];
  for (int v = 0; v < kCount; ++v) {
    sum[0][v] = Vector<Acc>{} + bias[0];
    sum[1][v] = Vector<Acc>{} + bias[1];
  }
  const Acc* w = weight;
  for (int map = 0; map < 2; ++map)
    for (int64_t ky = 0; ky < K; ++ky, w += K) {
      const Acc* row = from + map * plane + ky * pitch;
      for (int64_t kx = 0; kx < K; ++kx)
#pragma GCC unroll 4
        for (int v = 0; v < kCount; ++v) {
          const Vector<Acc> x = load(row + kx + v * kLanes<Acc>);
          sum[0][v] += x * w[kx];
          sum[1][v] += x * w[kx + 2 * K * K];
        }
    }
  for (int v = 0; v < kCount; ++v) {
    store(z0 + v * kLanes<Acc>, sum[0][v]);
    store(z1 + v * kLanes<Acc>, sum[1][v]);
  }
}

// One row of both output maps into z0 and z1, each shape.wide() long; weight is [2 out][2 in][kernel][kernel].
template <typename Acc>
void convolve_row(const SkafGateShape& s, const Acc* from, const Acc* weight, const Acc* bias, Acc* z0, Acc* z1) {
  for (int64_t x = 0; x < s.width;) {
    const int64_t left = s.width - x;
    if (left > 3 * kLanes<Acc>) {
      convolve_tile<Acc, 4>(s, from + x, weight, bias, z0 + x, z1 + x);
      x += 4 * kLanes<Acc>;
    } else if (left > kLanes<Acc>) {
      convolve_tile<Acc, 2>(s, from + x, weight, bias, z0 + x, z1 + x);
      x += 2 * kLanes<Acc>;
    } else {
      convolve_tile<Acc, 1>(s, from + x, weight, bias, z0 + x, z1 + x);
      x += kLanes<Acc>;
    }
  }
}

// Sums over the pixels of some rows (numbered through all images) of dz times m at kTaps neighbouring taps.
// to: element [0][map][ky][kx] of the weight's gradient.
template <typename Acc, int kTaps>
void correlate(const SkafGateMaps& a, int64_t map, int64_t ky, int64_t kx, int64_t first_row, int64_t last_row, Acc* to) {
  const SkafGateShape& s = a.shape;
  Vector<Acc> sum[2][kTaps] = {};
  for (int64_t row = first_row; row < last_row; ++row) {
    const int64_t image = row / s.height, y = row % s.height;
    const Acc* m = static_cast<const Acc*>(a.maps) + s.bordered_row(image, map, y + ky) + kx;
    const Acc* d0 = static_cast<const Acc*>(a.dz) + s.bordered_row(image, 0, y + s.border()) + s.border();
    const Acc* d1 = d0 + s.plane();
    for (int64_t x = 0; x < s.width; x += kLanes<Acc>) {  // beyond the width dz is zero
      const Vector<Acc> v0 = load(d0 + x), v1 = load(d1 + x);
#pragma GCC unroll 7
      for (int tap = 0; tap < kTaps; ++tap) {
        const Vector<Acc> v = load(m + x + tap);
        sum[0][tap] += v0 * v;
        sum[1][tap] += v1 * v;
      }
    }
  }
  for (int tap = 0; tap < kTaps; ++tap) {
    to[tap] = lane_sum<Acc>(sum[0][tap]);
    to[tap + 2 * s.kernel * s.kernel] = lane_sum<Acc>(sum[1][tap]);
  }
}

// Gradients of weight and bias over some rows, [filters + 2].
template <typename Acc>
void correlate_rows(const SkafGateMaps& a, int64_t first_row, int64_t last_row, Acc* to) {
  const SkafGateShape& s = a.shape;
  const int64_t K = s.kernel;
  for (int64_t map = 0; map < 2; ++map)
    for (int64_t ky = 0; ky < K; ++ky) {
      Acc* row = to + (map * K + ky) * K;
      int64_t kx = 0;
      for (; kx + 7 <= K; kx += 7) correlate<Acc, 7>(a, map, ky, kx, first_row, last_row, row + kx);
      for (; kx < K; ++kx) correlate<Acc, 1>(a, map, ky, kx, first_row, last_row, row + kx);
    }
  for (int64_t map = 0; map < 2; ++map) {
    Vector<Acc> sum = {};
    for (int64_t row = first_row; row < last_row; ++row) {
      const int64_t at = s.bordered_row(row / s.height, map, row % s.height + s.border()) + s.border();
      for (int64_t x = 0; x < s.width; x += kLanes<Acc>) sum += load(static_cast<const Acc*>(a.dz) + at + x);
    }
    to[s.filters() + map] = lane_sum<Acc>(sum);
  }
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
