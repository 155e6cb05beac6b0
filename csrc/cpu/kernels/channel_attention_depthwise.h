// channel_attention's depthwise 3x3 convolution and the gradient of its weight, one plane at a time. A plane that is
// convolved lies inside a border of zeros, so that no tap needs a test.
#pragma once

#include "channel_attention_products.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

template <typename Acc, int kRows>
inline void convolve_rows(const Acc* in, int64_t pitch, const Acc* w, int64_t vectors, Acc* out) {
  const int64_t wide = vectors * kLanes<Acc>;
  for (int64_t x = 0; x < wide; x += kLanes<Acc>) {
    Vector<Acc> sum[kRows] = {};
#pragma GCC unroll 8
    for (int y = 0; y < kRows + 2; ++y) {
      const Acc* from = in + (y - 1) * pitch + x;
      const Vector<Acc> left = load(from - 1), middle = load(from), right = load(from + 1);
#pragma GCC unroll 8
      for (int ky = 0; ky < 3; ++ky)
        if (const int row = y - ky; row >= 0 && row < kRows)
          sum[row] += left * w[3 * ky] + middle * w[3 * ky + 1] + right * w[3 * ky + 2];
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) store(out + row * wide + x, sum[row]);
  }
}

// out (dense rows) = 3x3 convolution of in (its first row; bordered rows `pitch` apart); zero beyond the width.
template <typename Acc>
void convolve(const Acc* in, int64_t pitch, const Acc* w, int64_t rows, int64_t width, int64_t vectors, Acc* out) {
  const int64_t wide = vectors * kLanes<Acc>;
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) convolve_rows<Acc, 4>(in + row * pitch, pitch, w, vectors, out + row * wide);
  for (; row < rows; ++row) convolve_rows<Acc, 1>(in + row * pitch, pitch, w, vectors, out + row * wide);
  if (width < wide)
    for (row = 0; row < rows; ++row)
      for (int64_t x = width; x < wide; ++x) out[row * wide + x] = 0;
}

// to[ky][kx] += sum over some rows of d times in at the tap; both bordered with one pitch.
template <typename Acc>
void add_correlation(const Acc* d, const Acc* in, int64_t pitch, int64_t rows, int64_t vectors, Acc* to) {
  Vector<Acc> sum[9] = {};
  for (int64_t x = 0; x < vectors * kLanes<Acc>; x += kLanes<Acc>) {
    // Row y of `in` meets the rows of d at y + 1, y and y - 1.
    Vector<Acc> above = {}, at = {};
    for (int64_t y = -1; y <= rows; ++y) {
      const Acc* from = in + y * pitch + x;
      const Vector<Acc> below = y + 1 < rows ? load(d + (y + 1) * pitch + x) : Vector<Acc>{};
      const Vector<Acc> v[3] = {load(from - 1), load(from), load(from + 1)};
#pragma GCC unroll 3
      for (int kx = 0; kx < 3; ++kx) {
        sum[kx] += below * v[kx];
        sum[3 + kx] += at * v[kx];
        sum[6 + kx] += above * v[kx];
      }
      above = at;
      at = below;
    }
  }
  for (int tap = 0; tap < 9; ++tap) to[tap] += folded<Acc>(sum[tap]);
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
