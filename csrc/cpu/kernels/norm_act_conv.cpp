// norm_act_conv's passes over whole maps. Compiled once per capability (AMINET_CAPABILITY).
//   padded = pad(act(x * scale + shift));  dx = scale * act' * fold(dpadded), dscale = sum of act' * fold * x, dshift
// Each reads and writes its maps once, row by row, vectors along the channels.
#include "cpu/norm_act_conv.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

#include "norm_act_conv_moments.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

template <typename T, typename Acc>
void pad_rows(const PadPass& a, int64_t first, int64_t last) {
  const NormActConvShape& s = a.in.shape;
  const int64_t C = s.channels, rows = a.in.rows->size(), columns = a.in.columns->size();
  const Acc *scale = static_cast<const Acc*>(a.in.scale), *shift = static_cast<const Acc*>(a.in.shift);
  const Acc slope = static_cast<Acc>(a.in.slope);
  for (int64_t row = first; row < last; ++row) {
    const int64_t image = row / rows, y = a.in.rows->source[row % rows];
    const T* from = static_cast<const T*>(a.in.x) + (image * s.height + std::max<int64_t>(y, 0)) * s.width * C;
    T* to = static_cast<T*>(a.padded) + row * columns * C;
    for (int64_t i = 0; i < columns; ++i, to += C) {
      const int64_t x = y < 0 ? -1 : a.in.columns->source[i];
      if (x < 0) {
        std::fill_n(to, C, T(0));
        continue;
      }
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        const Acc v = static_cast<Acc>(from[x * C + c]) * scale[c] + shift[c];
        to[c] = narrowed<T>(v * (v > 0 ? Acc(1) : slope));
      }
    }
  }
}

template <typename T, typename Acc>
void fold_units(const FoldPass& a, int64_t first, int64_t last) {
  const NormActConvShape& s = a.in.shape;
  const int64_t C = s.channels, rows = a.in.rows->size(), columns = a.in.columns->size();
  const Acc *scale = static_cast<const Acc*>(a.in.scale), *shift = static_cast<const Acc*>(a.in.shift);
  const Acc slope = static_cast<Acc>(a.in.slope);
  const Scratch<Acc> folded = scratch<Acc>(C);
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t image = unit / a.units_per_image, first_row = unit % a.units_per_image * a.unit_rows;
    Acc *dscale = static_cast<Acc*>(a.partial) + unit * 2 * C, *dshift = dscale + C;
    std::fill_n(dscale, 2 * C, Acc(0));
    for (int64_t y = first_row; y < std::min(s.height, first_row + a.unit_rows); ++y)
      for (int64_t x = 0; x < s.width; ++x) {
        Acc* sum = folded.get();
        bool begun = false;
        for (int64_t i = a.in.rows->start[y]; i < a.in.rows->start[y + 1]; ++i)
          for (int64_t j = a.in.columns->start[x]; j < a.in.columns->start[x + 1]; ++j) {
            const int64_t at = (image * rows + a.in.rows->place[i]) * columns + a.in.columns->place[j];
            const T* from = static_cast<const T*>(a.dpadded) + at * C;
            if (begun) {
#pragma omp simd
              for (int64_t c = 0; c < C; ++c) sum[c] += static_cast<Acc>(from[c]);
            } else {
#pragma omp simd
              for (int64_t c = 0; c < C; ++c) sum[c] = static_cast<Acc>(from[c]);
            }
            begun = true;
          }
        const int64_t at = ((image * s.height + y) * s.width + x) * C;
        const T* from = static_cast<const T*>(a.in.x) + at;
        T* dx = static_cast<T*>(a.dx) + at;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) {
          const Acc value = static_cast<Acc>(from[c]), d = sum[c];
          const Acc g = d * (value * scale[c] + shift[c] > 0 ? Acc(1) : slope);
          dx[c] = narrowed<T>(g * scale[c]);
          dscale[c] += g * value;
          dshift[c] += g;
        }
      }
  }
}

template <typename T, typename Acc>
void moment_units(const MomentPass& a, int64_t first, int64_t last) {
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t image = unit / a.units.per_image, row = unit % a.units.per_image * a.units.rows;
    const int64_t pixels = (std::min(a.height, row + a.units.rows) - row) * a.width;
    const int64_t at = (image * a.height + row) * a.width * a.outputs;
    const T* from = static_cast<const T*>(a.from) + at;
    if (a.to != nullptr) std::copy_n(from, pixels * a.outputs, static_cast<T*>(a.to) + at);
    if (a.partial != nullptr)
      sum_moments(from, pixels, a.outputs, static_cast<Acc*>(a.partial) + unit * 3 * a.outputs);
  }
}

template <typename T, typename Acc>
void gradient_pixels(const GradientPass& a, int64_t first, int64_t last) {
  const int64_t K = a.outputs;
  const Acc *mean = static_cast<const Acc*>(a.out.mean), *dmean = static_cast<const Acc*>(a.out.dmean);
  const Acc* dvar = static_cast<const Acc*>(a.out.dvar);
  for (int64_t p = first; p < last; ++p) {
    const T *dy = static_cast<const T*>(a.out.dy) + p * K, *y = static_cast<const T*>(a.out.y) + p * K;
    T* to = static_cast<T*>(a.to) + p * K;
    if (a.out.dy == nullptr) {
#pragma omp simd
      for (int64_t k = 0; k < K; ++k) to[k] = narrowed<T>(dmean[k] + dvar[k] * (static_cast<Acc>(y[k]) - mean[k]));
      continue;
    }
#pragma omp simd
    for (int64_t k = 0; k < K; ++k)
      to[k] = narrowed<T>(static_cast<Acc>(dy[k]) + dmean[k] + dvar[k] * (static_cast<Acc>(y[k]) - mean[k]));
  }
}

// Calls run<T, Acc>(arguments, first, last) for the scalar's types.
#define AMINET_FOR_SCALAR(run)                                           \
  switch (scalar) {                                                      \
    case Scalar::f32: return run<float, float>(a, first, last);          \
    case Scalar::f64: return run<double, double>(a, first, last);        \
    case Scalar::bf16: return run<c10::BFloat16, float>(a, first, last); \
    case Scalar::f16: return run<c10::Half, float>(a, first, last);      \
  }

void pad(Scalar scalar, const PadPass& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(pad_rows) }
void fold(Scalar scalar, const FoldPass& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(fold_units) }
void moments(Scalar scalar, const MomentPass& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(moment_units) }
void gradient(Scalar scalar, const GradientPass& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(gradient_pixels) }

}  // namespace

extern const NormActConvKernels norm_act_conv = {pad, fold, moments, gradient};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
