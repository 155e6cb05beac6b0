// SKAF's descriptor: mean and max over the channels of its convolutions, and its backward without their gradient.
// Compiled once per capability (AMINET_CAPABILITY).
//   dx[q, :] = sum over taps d of dm_max[q - d] * W[argmax[q - d], d, :] + dm_mean[q - d] / total * sum_o W[o, d, :]
#include "cpu/skaf_descriptor.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <limits>

#include "cpu/kernels/skaf_descriptor_weights.h"
#include "cpu/kernels/vectors.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Vectors run along the pixels, so that no pixel's sum, max or index has to be gathered from the lanes of one.
// As in torch.max NaN is larger than any number, and the first of several maxima is taken.
template <typename T, typename Acc>
void pool_block(const SkafPool& a, int64_t pixel, int64_t count) {
  constexpr int L = kLanes<Acc>;
  typedef decltype(Vector<Acc>{} < Vector<Acc>{}) Mask;  // integers as wide as Acc
  const int64_t P = a.shape.height * a.shape.width;
  Vector<Acc> sum = {}, best = Vector<Acc>{} - std::numeric_limits<Acc>::infinity();
  Mask found = {}, channel = {};
  for (const SkafConv& conv : a.convs) {
    const T* u[L];
    for (int64_t i = 0; i < L; ++i)  // the last pixel again where there are no more
      u[i] = static_cast<const T*>(conv.u) + (pixel + std::min(i, count - 1)) * conv.channels;
    for (int64_t c = 0; c < conv.channels; ++c, channel += 1) {
      Vector<Acc> v;
      for (int i = 0; i < L; ++i) v[i] = static_cast<Acc>(u[i][c]);
      sum += v;
      const Mask larger = (v > best) | ((v != v) & (best == best));
      best = larger ? v : best;
      found = larger ? channel : found;
    }
  }
  for (int i = 0; i < count; ++i) {
    const int64_t n = a.first_image + (pixel + i) / P, p = (pixel + i) % P;
    T* m = static_cast<T*>(a.m) + n * 2 * P + p;
    m[0] = narrowed<T>(sum[i] / static_cast<Acc>(a.shape.total));
    m[P] = narrowed<T>(best[i]);
    a.argmax[n * P + p] = static_cast<int32_t>(found[i]);
  }
}

template <typename T, typename Acc>
void pool(const SkafPool& a, int64_t first, int64_t last) {
  constexpr int64_t L = kLanes<Acc>;
  for (int64_t p = first; p < last; p += L) pool_block<T, Acc>(a, p, std::min(L, last - p));
}

template <typename T, typename Acc>
struct Input {
  static constexpr int kPixels = 6, kVectors = 2;  // of a block of dx whose sums stay in registers
  static constexpr int64_t L = kLanes<Acc>;
  const SkafBackwardInput& a;
  const SkafShape& s = a.shape;
  const int64_t C = s.inputs, H = s.height, W = s.width, K = s.size, R = K / 2;
  const int64_t padded = skaf_padded_inputs(s);
  const int64_t map = W + 2 * R + kPixels;  // a row of the mean's gradient between zeros
  Acc* const sum = static_cast<Acc*>(a.sum);
  const Acc* const dm = static_cast<const Acc*>(a.dm);

  // Row t of the window, of all channels' kernels added up.
  void sum_kernels(int64_t t) const {
    std::fill(sum + t * K * padded, sum + (t + 1) * K * padded, Acc(0));
    std::vector<Acc> row(K * C);
    for (const SkafConv& conv : a.convs) {
      const int64_t k = conv.size, inset = R - k / 2;
      if (t < inset || t >= K - inset) continue;
      const Acc* weight = static_cast<const Acc*>(conv.weight) + (t - inset) * k * C;
      for (int64_t o = 0; o < conv.channels; ++o, weight += k * k * C)
#pragma omp simd
        for (int64_t i = 0; i < k * C; ++i) row[inset * C + i] += weight[i];
    }
    for (int64_t d = 0; d < K; ++d) std::copy_n(&row[d * C], C, sum + (t * K + d) * padded);
  }

  // The part of the max: kernels of the chosen channels onto one row of dx, R pixels wider on both sides.
  void scatter(int64_t n, int64_t y, Acc* to) const {
    for (int64_t d = std::max(-R, y - H + 1); d <= std::min(R, y); ++d) {
      const int32_t* argmax = a.argmax + (n * H + y - d) * W;
      const Acc* g = dm + ((n * 2 + 1) * H + y - d) * W;
      // Pixels K apart touch no common element, so that no load waits for the store before it.
      for (int64_t phase = 0; phase < K; ++phase)
        for (int64_t x = phase; x < W; x += K) {
          int64_t o = argmax[x];
          const SkafConv* conv = a.convs.data();
          while (o >= conv->channels) o -= (conv++)->channels;
          const int64_t k = conv->size, r = k / 2, length = k * C;
          if (d < -r || d > r) continue;
          const Acc* from = static_cast<const Acc*>(conv->weight) + (o * k + d + r) * length;
          const Acc gain = g[x];
          Acc* at = to + (x + R - r) * C;
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) at[i] += gain * from[i];
        }
    }
  }

  // The part of the mean for kPixels pixels and kVectors vectors of channels: a dense product with the kernels' sum.
  void block(const Acc* g, const Acc* weight, Acc* out) const {
    Vector<Acc> acc[kPixels][kVectors] = {};
    for (int64_t t = 0; t < K; ++t)
      for (int64_t d = 0; d < K; ++d) {
        const Acc* w = weight + (t * K + d) * padded;
        const Acc* gains = g + (K - 1 - t) * map + K - 1 - d;
        const Vector<Acc> one = load(w), two = load(w + L);
#pragma GCC unroll 6
        for (int p = 0; p < kPixels; ++p) {
          const Vector<Acc> gain = Vector<Acc>{} + gains[p];
          acc[p][0] += gain * one;
          acc[p][1] += gain * two;
        }
      }
    for (int p = 0; p < kPixels; ++p)
      for (int v = 0; v < kVectors; ++v) store(out + (p * kVectors + v) * L, acc[p][v]);
  }

  void rows(int64_t first, int64_t last) const {
    std::vector<Acc> line((W + 2 * R) * C), gains(K * map);
    Acc out[kPixels * kVectors * L];
    for (int64_t r = first; r < last; ++r) {
      const int64_t n = r / H, y = r % H;
      std::fill(line.begin(), line.end(), Acc(0));
      scatter(n, y, line.data());
      std::fill(gains.begin(), gains.end(), Acc(0));
      for (int64_t t = std::max<int64_t>(0, R - y); t < std::min(K, H + R - y); ++t)
        for (int64_t x = 0; x < W; ++x)
          gains[t * map + R + x] = dm[(n * 2 * H + y + t - R) * W + x] / static_cast<Acc>(s.total);
      for (int64_t x = 0; x < W; x += kPixels)
        for (int64_t c = 0; c < C; c += kVectors * L) {
          block(&gains[x], sum + c, out);
          const int64_t channels = std::min<int64_t>(kVectors * L, C - c);
          for (int64_t p = 0; p < std::min<int64_t>(kPixels, W - x); ++p) {
            const Acc *from = &line[(x + p + R) * C + c], *mean = out + p * kVectors * L;
            T* to = static_cast<T*>(a.dx) + (r * W + x + p) * C + c;
#pragma omp simd
            for (int64_t i = 0; i < channels; ++i) to[i] = narrowed<T>(from[i] + mean[i]);
          }
        }
    }
  }
};

// Calls function with the data's type and that of its sums.
template <typename F>
void with_types(Scalar scalar, const F& function) {
  switch (scalar) {
    case Scalar::f32: return function(float(), float());
    case Scalar::f64: return function(double(), double());
    case Scalar::bf16: return function(c10::BFloat16(), float());
    case Scalar::f16: return function(c10::Half(), float());
  }
}

void pool(Scalar scalar, const SkafPool& a, int64_t first, int64_t last) {
  with_types(scalar, [&](auto t, auto acc) { pool<decltype(t), decltype(acc)>(a, first, last); });
}

void sum_kernels(Scalar scalar, const SkafBackwardInput& a, int64_t first, int64_t last) {
  with_types(scalar, [&](auto t, auto acc) {
    for (int64_t i = first; i < last; ++i) Input<decltype(t), decltype(acc)>{a}.sum_kernels(i);
  });
}

void dx(Scalar scalar, const SkafBackwardInput& a, int64_t first, int64_t last) {
  with_types(scalar, [&](auto t, auto acc) { Input<decltype(t), decltype(acc)>{a}.rows(first, last); });
}

void pad(Scalar scalar, const SkafBackwardParameters& a, int64_t first, int64_t last) {
  with_types(scalar, [&](auto t, auto acc) { Parameters<decltype(t), decltype(acc)>{a}.pad(first, last); });
}

void sort(Scalar scalar, SkafBackwardParameters& a, int64_t first, int64_t last) {
  with_types(scalar, [&](auto t, auto acc) {
    for (int64_t i = first; i < last; ++i) Parameters<decltype(t), decltype(acc)>{a}.sort(a.tiles[i]);
  });
}

void mean(Scalar scalar, const SkafBackwardParameters& a, int64_t first, int64_t last) {
  with_types(scalar, [&](auto t, auto acc) {
    for (int64_t i = first; i < last; ++i) Parameters<decltype(t), decltype(acc)>{a}.mean_of(i);
  });
}

void add_means(Scalar scalar, const SkafBackwardParameters& a) {
  with_types(scalar, [&](auto t, auto acc) { Parameters<decltype(t), decltype(acc)>{a}.add_means(); });
}

void weights(Scalar scalar, const SkafBackwardParameters& a, int64_t first, int64_t last) {
  with_types(scalar, [&](auto t, auto acc) { Parameters<decltype(t), decltype(acc)>{a}.weights(first, last); });
}

}  // namespace

extern const SkafKernels skaf_descriptor = {pool, sum_kernels, dx, pad, sort, mean, add_means, weights};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
