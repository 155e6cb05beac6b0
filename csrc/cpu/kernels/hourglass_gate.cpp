// The end of FRM's hourglass. Compiled once per capability (AMINET_CAPABILITY).
//   y = z + norm(x) * sigmoid(bias + sum of w * s),  s = act(norm(a)) + act(norm(b)), reflected at the border
// s is made a row at a time and multiplied with all nine taps at once (a product of matrices, [pixels][maps] x
// [maps][taps]), so that only nine numbers a pixel are kept for the neighbouring rows; the backward makes s again, and
// both its gradients and all sums over pixels in the same pass, a block of pixels at a time in the first-level cache.
#include "cpu/hourglass_gate.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "gemm.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

constexpr int64_t kBlock = 32;  // pixels of a block of the backward

inline int64_t reflected(int64_t i, int64_t size) {
  if (size == 1) return 0;
  return i < 0 ? 1 : i == size ? size - 2 : i;
}

template <typename T, typename Acc>
struct Forward {
  const HourglassForward& a;
  const HourglassShape& s = a.shape;
  const int64_t wide = padded_to_vectors<Acc>(s.width);
  const Scratch<Acc> sum = scratch<Acc>(s.width * s.maps), logits = scratch<Acc>(wide);
  const Scratch<Acc> taps = scratch<Acc>((s.band_rows() + 2) * s.width * kHourglassTaps);

  static Acc act(Acc v, Acc slope) { return v * (v > 0 ? Acc(1) : slope); }

  // The products of one row of s with all taps: [width][kHourglassTaps].
  void row(int64_t image, int64_t y, Acc* to) const {
    const int64_t M = s.maps, at = (image * s.height + y) * s.width * M;
    const T *first = static_cast<const T*>(a.a.values) + at, *second = static_cast<const T*>(a.b.values) + at;
    const Acc *scale1 = static_cast<const Acc*>(a.a.scale), *shift1 = static_cast<const Acc*>(a.a.shift);
    const Acc *scale2 = static_cast<const Acc*>(a.b.scale), *shift2 = static_cast<const Acc*>(a.b.shift);
    const Acc slope = static_cast<Acc>(a.slope);
    for (int64_t i = 0; i < s.width * M; i += M) {
      Acc* to_pixel = sum.get() + i;
#pragma omp simd
      for (int64_t c = 0; c < M; ++c)
        to_pixel[c] = act(static_cast<Acc>(first[i + c]) * scale1[c] + shift1[c], slope) +
                      act(static_cast<Acc>(second[i + c]) * scale2[c] + shift2[c], slope);
    }
    Gemm<Acc>{sum.get(), M, 1, static_cast<const Acc*>(a.weight), kHourglassTaps, to, kHourglassTaps,
              s.width, 9, M, false}
        .run();
  }

  // The gates of row y; `from` are the taps' products of row `first_row` on.
  void gates(int64_t y, int64_t first_row, const Acc* from, Acc* gate) const {
    const Acc bias = *static_cast<const Acc*>(a.bias);
    for (int64_t x = 0; x < s.width; ++x) {
      Acc logit = bias;
      for (int ky = 0; ky < 3; ++ky) {
        const Acc* products = from + (reflected(y + ky - 1, s.height) - first_row) * s.width * kHourglassTaps;
        for (int kx = 0; kx < 3; ++kx)
          logit += products[reflected(x + kx - 1, s.width) * kHourglassTaps + ky * 3 + kx];
      }
      logits[x] = logit;
    }
    std::fill(logits.get() + s.width, logits.get() + wide, Acc(0));
    for (int64_t x = 0; x < s.width; x += kLanes<Acc>)
      store_some(gate + x, sigmoid<Acc>(load(logits.get() + x)), s.width - x);
  }

  void run(int64_t band) const {
    const int64_t image = band / s.image_bands(), first = band % s.image_bands() * s.band_rows();
    const int64_t last = std::min(s.height, first + s.band_rows()), C = s.channels;
    const int64_t top = std::max<int64_t>(0, first - 1), bottom = std::min(s.height, last + 1);
    for (int64_t y = top; y < bottom; ++y) row(image, y, taps.get() + (y - top) * s.width * kHourglassTaps);
    const Acc *scale = static_cast<const Acc*>(a.x.scale), *shift = static_cast<const Acc*>(a.x.shift);
    for (int64_t y = first; y < last; ++y) {
      const int64_t pixel = (image * s.height + y) * s.width;
      Acc* gate = static_cast<Acc*>(a.gate) + pixel;
      gates(y, top, taps.get(), gate);
      const T *z = static_cast<const T*>(a.z) + pixel * C, *values = static_cast<const T*>(a.x.values) + pixel * C;
      T* to = static_cast<T*>(a.y) + pixel * C;
      for (int64_t x = 0; x < s.width; ++x, z += C, values += C, to += C) {
        const Acc g = gate[x];
#pragma omp simd
        for (int64_t c = 0; c < C; ++c)
          to[c] = narrowed<T>(static_cast<Acc>(z[c]) + (static_cast<Acc>(values[c]) * scale[c] + shift[c]) * g);
      }
    }
  }
};

template <typename T, typename Acc>
void forward_bands(const HourglassForward& a, int64_t first, int64_t last) {
  const Forward<T, Acc> run{a};
  for (int64_t band = first; band < last; ++band) run.run(band);
}

template <typename T, typename Acc>
void backward_x_bands(const HourglassBackwardX& a, int64_t first, int64_t last) {
  const HourglassShape& s = a.shape;
  const int64_t C = s.channels;
  const Acc *scale = static_cast<const Acc*>(a.x.scale), *shift = static_cast<const Acc*>(a.x.shift);
  for (int64_t band = first; band < last; ++band) {
    const int64_t image = band / s.image_bands(), top = band % s.image_bands() * s.band_rows();
    Acc *dscale = static_cast<Acc*>(a.partial) + band * (2 * C + 1), *dshift = dscale + C, *dbias = dshift + C;
    std::fill_n(dscale, 2 * C + 1, Acc(0));
    for (int64_t y = top; y < std::min(s.height, top + s.band_rows()); ++y) {
      const int64_t pixel = (image * s.height + y) * s.width;
      const Acc* gate = static_cast<const Acc*>(a.gate) + pixel;
      const T *dy = static_cast<const T*>(a.dy) + pixel * C, *x = static_cast<const T*>(a.x.values) + pixel * C;
      T* dx = static_cast<T*>(a.dx) + pixel * C;
      Acc* dlogit = static_cast<Acc*>(a.dlogit) + s.bordered_row(image, y + 2) + 2;
      for (int64_t i = 0; i < s.width; ++i, dy += C, x += C, dx += C) {
        const Acc g = gate[i];
        Acc dgate = 0;
#pragma omp simd reduction(+ : dgate)
        for (int64_t c = 0; c < C; ++c) {
          const Acc d = static_cast<Acc>(dy[c]), value = static_cast<Acc>(x[c]), dnorm = d * g;
          dgate += d * (value * scale[c] + shift[c]);
          dscale[c] += dnorm * value;
          dshift[c] += dnorm;
          dx[c] = narrowed<T>(dnorm * scale[c]);
        }
        dlogit[i] = dgate * g * (1 - g);
        *dbias += dlogit[i];
      }
    }
  }
}

template <typename T, typename Acc>
struct BackwardMaps {
  const HourglassBackwardMaps& a;
  const HourglassShape& s = a.shape;
  const int64_t M = s.maps, pitch = hourglass_padded(M);
  const Scratch<Acc> first = scratch<Acc>(kBlock * pitch), second = scratch<Acc>(kBlock * pitch);
  const Scratch<Acc> dq = scratch<Acc>(kBlock * 9), norms = rounded_up();

  Scratch<Acc> rounded_up() const {
    Scratch<Acc> to = scratch<Acc>(4 * pitch);
    std::fill_n(to.get(), 4 * pitch, Acc(0));
    const void* from[] = {a.a.scale, a.a.shift, a.b.scale, a.b.shift};
    for (int i = 0; i < 4; ++i) std::copy_n(static_cast<const Acc*>(from[i]), M, to.get() + i * pitch);
    return to;
  }

  // Where index i of an axis lies in the padded map: once, or more often beside a border.
  static int places(int64_t i, int64_t size, int64_t* to) {
    int count = 0;
    to[count++] = i + 1;
    if (i == reflected(-1, size)) to[count++] = 0;
    if (i == reflected(size, size)) to[count++] = size + 1;
    return count;
  }

  // What reaches pixel x of row y through each tap: the gradients of the outputs that saw it there.
  void gather(int64_t image, int64_t y, int64_t x, Acc* to) const {
    int64_t rows[3], columns[3];
    const int row_count = places(y, s.height, rows), column_count = places(x, s.width, columns);
    const Acc* plane = static_cast<const Acc*>(a.dlogit) + s.bordered_row(image, 0);
    for (int ky = 0; ky < 3; ++ky)
      for (int kx = 0; kx < 3; ++kx) {
        Acc sum = 0;
        for (int i = 0; i < row_count; ++i)
          for (int j = 0; j < column_count; ++j)
            sum += plane[(rows[i] - ky + 2) * (s.width + 4) + columns[j] - kx + 2];
        to[ky * 3 + kx] = sum;
      }
  }

  void block(int64_t pixels, Acc* partial) const {
    typedef Vector<Acc> V;
    const V zero = {};
    const Acc slope = static_cast<Acc>(a.slope);
    for (int64_t c = 0; c < M; c += kLanes<Acc>) {
      const Acc* norm = norms.get() + c;
      const V scale1 = load(norm), shift1 = load(norm + pitch);
      const V scale2 = load(norm + 2 * pitch), shift2 = load(norm + 3 * pitch);
      V w[9], sum[kHourglassSums] = {};
      for (int t = 0; t < 9; ++t) w[t] = load(static_cast<const Acc*>(a.weight) + t * pitch + c);
      for (int64_t p = 0; p < pixels; ++p) {
        Acc *to1 = first.get() + p * pitch + c, *to2 = second.get() + p * pitch + c;
        const Acc* q = dq.get() + p * 9;
        const V x1 = load(to1), x2 = load(to2), y1 = x1 * scale1 + shift1, y2 = x2 * scale2 + shift2;
        const V s = (y1 > zero ? y1 : y1 * slope) + (y2 > zero ? y2 : y2 * slope);
        V ds = {};
#pragma GCC unroll 9
        for (int t = 0; t < 9; ++t) {
          ds += w[t] * q[t];
          sum[t] += s * q[t];
        }
        const V d1 = y1 > zero ? ds : ds * slope, d2 = y2 > zero ? ds : ds * slope;
        sum[9] += d1 * x1;
        sum[10] += d1;
        sum[11] += d2 * x2;
        sum[12] += d2;
        store(to1, d1 * scale1);
        store(to2, d2 * scale2);
      }
      for (int t = 0; t < kHourglassSums; ++t) {
        Acc* to = partial + t * pitch + c;
        store(to, load(to) + sum[t]);
      }
    }
  }

  void run(int64_t band) const {
    const int64_t image = band / s.image_bands(), top = band % s.image_bands() * s.band_rows();
    Acc* partial = static_cast<Acc*>(a.partial) + band * kHourglassSums * pitch;
    std::fill_n(partial, kHourglassSums * pitch, Acc(0));
    for (int64_t y = top; y < std::min(s.height, top + s.band_rows()); ++y)
      for (int64_t x = 0; x < s.width; x += kBlock) {
        const int64_t pixels = std::min(kBlock, s.width - x), at = ((image * s.height + y) * s.width + x) * M;
        copy(static_cast<const T*>(a.a.values) + at, M, first.get(), pitch, pixels);
        copy(static_cast<const T*>(a.b.values) + at, M, second.get(), pitch, pixels);
        for (int64_t p = 0; p < pixels; ++p) gather(image, y, x + p, dq.get() + p * 9);
        block(pixels, partial);
        copy(first.get(), pitch, static_cast<T*>(a.da) + at, M, pixels);
        copy(second.get(), pitch, static_cast<T*>(a.db) + at, M, pixels);
      }
  }

  template <typename From, typename To>
  void copy(const From* from, int64_t from_pitch, To* to, int64_t to_pitch, int64_t pixels) const {
    for (int64_t p = 0; p < pixels; ++p) {
#pragma omp simd
      for (int64_t c = 0; c < M; ++c)
        to[p * to_pitch + c] = narrowed<To>(static_cast<Acc>(from[p * from_pitch + c]));
    }
  }
};

template <typename T, typename Acc>
void backward_maps_bands(const HourglassBackwardMaps& a, int64_t first, int64_t last) {
  const BackwardMaps<T, Acc> run{a};
  for (int64_t band = first; band < last; ++band) run.run(band);
}

// Calls run<T, Acc>(arguments, first, last) for the scalar's types.
#define AMINET_FOR_SCALAR(run)                                           \
  switch (scalar) {                                                      \
    case Scalar::f32: return run<float, float>(a, first, last);          \
    case Scalar::f64: return run<double, double>(a, first, last);        \
    case Scalar::bf16: return run<c10::BFloat16, float>(a, first, last); \
    case Scalar::f16: return run<c10::Half, float>(a, first, last);      \
  }

void forward(Scalar scalar, const HourglassForward& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(forward_bands) }
void backward_x(Scalar scalar, const HourglassBackwardX& a, int64_t first, int64_t last) {
  AMINET_FOR_SCALAR(backward_x_bands)
}
void backward_maps(Scalar scalar, const HourglassBackwardMaps& a, int64_t first, int64_t last) {
  AMINET_FOR_SCALAR(backward_maps_bands)
}

}  // namespace

extern const HourglassKernels hourglass_gate = {forward, backward_x, backward_maps};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
