// Gradients of SKAF's kernels and biases. For kernels/skaf_descriptor.cpp only.
//   dW[o, d, :] = sum over the pixels p with argmax o of dm_max[p] * x[p + d, :]
//               + sum over all pixels of dm_mean[p] / total * x[p + d, :]        the same for every channel o
// A row of a window is one run of k * inputs numbers in the padded image and in dW, so vectors run along it whatever
// the number of channels, and a row of dW stays in registers while the pixels of its channel pass.
#pragma once

#include "cpu/kernels/vectors.h"
#include "cpu/skaf_descriptor.h"

#include <algorithm>

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

constexpr int kMaxRun = 12;  // vectors held in registers

// sums[i] += sum over pixels of gain * x[window + i], for i in one run of B vectors.
template <typename Acc, int B>
void add_run(const Acc* x, const int64_t* window, const Acc* gain, int64_t pixels, Acc* sums) {
  Vector<Acc> sum[B];
  for (int b = 0; b < B; ++b) sum[b] = load(sums + b * kLanes<Acc>);
  for (int64_t p = 0; p < pixels; ++p) {
    const Acc* from = x + window[p];
    const Vector<Acc> g = Vector<Acc>{} + gain[p];
#pragma GCC unroll 12
    for (int b = 0; b < B; ++b) sum[b] += g * load(from + b * kLanes<Acc>);
  }
  for (int b = 0; b < B; ++b) store(sums + b * kLanes<Acc>, sum[b]);
}

template <typename Acc, int B = kMaxRun>
void add_run(int64_t vectors, const Acc* x, const int64_t* window, const Acc* gain, int64_t pixels, Acc* sums) {
  if (vectors == B)
    add_run<Acc, B>(x, window, gain, pixels, sums);
  else if constexpr (B > 1)
    add_run<Acc, B - 1>(vectors, x, window, gain, pixels, sums);
}

// The same for `length` numbers; only these are written, though more of x may be read.
template <typename Acc>
void add_row(const Acc* x, const int64_t* window, const Acc* gain, int64_t pixels, Acc* sums, int64_t length) {
  constexpr int64_t L = kLanes<Acc>;
  const int64_t vectors = (length + L - 1) / L, runs = (vectors + kMaxRun - 1) / kMaxRun;
  alignas(kVectorBytes) Acc local[kMaxRun * L];
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t first = vectors * run / runs, last = vectors * (run + 1) / runs;
    const int64_t bytes = (std::min(last * L, length) - first * L) * static_cast<int64_t>(sizeof(Acc));
    std::memcpy(local, sums + first * L, bytes);
    add_run<Acc>(last - first, x + first * L, window, gain, pixels, local);
    std::memcpy(sums + first * L, local, bytes);
  }
}

template <typename T, typename Acc>
struct Parameters {
  const SkafBackwardParameters& a;
  const SkafShape& s = a.shape;
  const int64_t C = s.inputs, H = s.height, W = s.width, K = s.size, R = K / 2;
  const int64_t row = (W + 2 * R) * C;                   // elements of a padded row
  const int64_t window_size = K * K * C;                 // of one channel's gradient in the largest window
  Acc* const padded = static_cast<Acc*>(a.padded);
  Acc* const mean = static_cast<Acc*>(a.mean);
  Acc* const gain = static_cast<Acc*>(a.gain);
  const Acc* const dm = static_cast<const Acc*>(a.dm);

  // Rows of all padded images, [images * (H + 2R)].
  void pad(int64_t first, int64_t last) const {
    const T* x = static_cast<const T*>(a.x);
    for (int64_t r = first; r < last; ++r) {
      const int64_t n = r / (H + 2 * R), y = r % (H + 2 * R) - R;
      Acc* to = padded + r * row;
      if (y < 0 || y >= H) {
        std::fill(to, to + row, Acc(0));
        continue;
      }
      std::fill(to, to + R * C, Acc(0));
      std::fill(to + (R + W) * C, to + row, Acc(0));
      const T* from = x + (n * H + y) * W * C;
#pragma omp simd
      for (int64_t i = 0; i < W * C; ++i) to[R * C + i] = static_cast<Acc>(from[i]);
    }
  }

  // The first element of the window around the pixel x of row r of [images * H].
  int64_t window(int64_t r, int64_t x) const { return (r / H * (H + 2 * R) + r % H) * row + x * C; }

  void sort(SkafTile& tile) const {
    tile.start.assign(s.total + 1, 0);
    const int64_t begin = tile.first_row * W, end = tile.last_row * W;
    for (int64_t p = begin; p < end; ++p) ++tile.start[a.argmax[p] + 1];
    for (int64_t o = 0; o < s.total; ++o) tile.start[o + 1] += tile.start[o];
    tile.window.resize(end - begin);
    std::vector<int64_t> next(tile.start.begin(), tile.start.end() - 1);
    for (int64_t r = tile.first_row; r < tile.last_row; ++r)
      for (int64_t x = 0; x < W; ++x) {
        const int64_t place = next[a.argmax[r * W + x]]++;
        tile.window[place] = window(r, x);
        gain[begin + place] = dm[(r / H * 2 + 1) * H * W + r % H * W + x];
      }
  }

  // One chunk's sums over all its pixels: what every channel gets.
  void mean_of(int64_t chunk) const {
    const int64_t rows = s.images * H, first = rows * chunk / a.mean_chunks, last = rows * (chunk + 1) / a.mean_chunks;
    Acc* sums = mean + chunk * (window_size + 1);
    std::fill(sums, sums + window_size + 1, Acc(0));
    std::vector<int64_t> windows((last - first) * W);
    std::vector<Acc> gains((last - first) * W);
    for (int64_t r = first; r < last; ++r)
      for (int64_t x = 0; x < W; ++x) {
        const int64_t p = (r - first) * W + x;
        windows[p] = window(r, x);
        gains[p] = dm[r / H * 2 * H * W + r % H * W + x] / static_cast<Acc>(s.total);
        sums[window_size] += gains[p];
      }
    for (int64_t t = 0; t < K; ++t)
      add_row(padded + t * row, windows.data(), gains.data(), (last - first) * W, sums + t * K * C, K * C);
  }

  // All chunks into the first, always in the same order.
  void add_means() const {
    for (int64_t chunk = 1; chunk < a.mean_chunks; ++chunk) {
      const Acc* from = mean + chunk * (window_size + 1);
#pragma omp simd
      for (int64_t i = 0; i <= window_size; ++i) mean[i] += from[i];
    }
  }

  // Row t of the largest window, for channel `o` of `conv` which is channel `channel` of u.
  void weights(const SkafTile& tile, const SkafConv& conv, int64_t o, int64_t channel, int64_t t) const {
    const int64_t k = conv.size, inset = R - k / 2, length = k * C;
    if (t < inset || t >= K - inset) return;
    const bool first = &tile == a.tiles.data();
    const int64_t begin = tile.start[channel], pixels = tile.start[channel + 1] - begin;
    const Acc* gains = gain + tile.first_row * W + begin;
    Acc* to = static_cast<Acc*>(conv.dweight) + (o * k + t - inset) * length;
    if (first) std::memcpy(to, mean + (t * K + inset) * C, length * sizeof(Acc));
    if (pixels > 0)
      add_row(padded + t * row + inset * C, tile.window.data() + begin, gains, pixels, to, length);
    if (t != R) return;
    Acc* bias = static_cast<Acc*>(conv.dbias) + o;
    if (first) *bias = mean[window_size];
    for (int64_t p = 0; p < pixels; ++p) *bias += gains[p];
  }

  void weights(int64_t first, int64_t last) const {
    for (const SkafTile& tile : a.tiles)
      for (int64_t pair = first; pair < last; ++pair) {
        const int64_t channel = pair % s.total;
        int64_t o = channel;
        const SkafConv* conv = a.convs.data();
        while (o >= conv->channels) o -= (conv++)->channels;
        weights(tile, *conv, o, channel, pair / s.total);
      }
  }
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
