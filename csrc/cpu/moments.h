// Mean and biased variance of each channel from partial sums over rows; for norm_act_conv.cpp and channel_moments.cpp.
#pragma once

#include <algorithm>
#include <optional>
#include <utility>

#include "cpu/norm_act_conv.h"
#include "cpu/tensors.h"

namespace aminet {

// A thread is worth waking for this many elements.
constexpr int64_t kMomentGrain = 16384;
inline int64_t moment_grain(int64_t elements) {
  return std::max<int64_t>(1, kMomentGrain / std::max<int64_t>(1, elements));
}

// Units of about 1024 pixels: a number that depends on the shape alone, so that the threads do not change the result.
inline RowUnits row_units(int64_t height, int64_t width) {
  const int64_t rows = std::clamp<int64_t>(1024 / width, 1, height);
  return {rows, (height + rows - 1) / rows};
}

template <typename Acc>
void combine_moments(const Acc* partial, int64_t images, int64_t K, int64_t height, int64_t width, RowUnits units,
                     Acc* mean, Acc* var) {
  std::vector<double> m(K), squares(K);
  double count = 0;
  for (int64_t image = 0; image < images; ++image)
    for (int64_t unit = 0; unit < units.per_image; ++unit, partial += 3 * K) {
      const int64_t rows = std::min(height, (unit + 1) * units.rows) - unit * units.rows;
      const double pixels = static_cast<double>(rows * width);
      const double part = pixels / (count + pixels);
      for (int64_t k = 0; k < K; ++k) {
        const double sum = partial[K + k], distance = partial[k] + sum / pixels - m[k];
        m[k] += distance * part;
        squares[k] += partial[2 * K + k] - sum * (sum / pixels) + distance * distance * count * part;
      }
      count += pixels;
    }
  for (int64_t k = 0; k < K; ++k) {
    mean[k] = static_cast<Acc>(m[k]);
    var[k] = static_cast<Acc>(squares[k] / count);
  }
}

// partial [images * units.per_image][3][K] -> mean, var [K]
inline std::pair<Tensor, Tensor> moments_of(const Tensor& partial, int64_t images, int64_t height, int64_t width,
                                            RowUnits units) {
  const int64_t K = partial.size(2);
  Tensor mean = torch::stable::new_empty(partial, {K}), var = torch::stable::new_empty(partial, {K});
  if (partial.scalar_type() == ScalarType::Double)
    combine_moments(static_cast<const double*>(partial.const_data_ptr()), images, K, height, width, units,
                    static_cast<double*>(mean.mutable_data_ptr()), static_cast<double*>(var.mutable_data_ptr()));
  else
    combine_moments(static_cast<const float*>(partial.const_data_ptr()), images, K, height, width, units,
                    static_cast<float*>(mean.mutable_data_ptr()), static_cast<float*>(var.mutable_data_ptr()));
  return {mean, var};
}

// v * factor, in the type of the sums.
inline Tensor times(const Tensor& v, double factor, ScalarType acc) {
  const Tensor from = parameter_of(v, acc);
  Tensor to = torch::stable::new_empty(from, {from.numel()});
  for (int64_t i = 0; i < from.numel(); ++i)
    if (acc == ScalarType::Double)
      static_cast<double*>(to.mutable_data_ptr())[i] = static_cast<const double*>(from.const_data_ptr())[i] * factor;
    else
      static_cast<float*>(to.mutable_data_ptr())[i] =
          static_cast<float>(static_cast<const float*>(from.const_data_ptr())[i] * factor);
  return to;
}

// What comes through the moments of y, ready for the loops.
struct MomentGradients {
  Tensor y, mean, dmean, dvar;

  MomentGradients(const Tensor& y, const Tensor& mean, const Tensor& dmean, const Tensor& dvar, ScalarType acc)
      : y(y),
        mean(parameter_of(mean, acc)),
        dmean(times(dmean, static_cast<double>(y.size(1)) / static_cast<double>(y.numel()), acc)),
        dvar(times(dvar, 2.0 * static_cast<double>(y.size(1)) / static_cast<double>(y.numel()), acc)) {}

  // dy and y: pointers to the data of the chunk
  OutputGradient of(const void* dy, const void* from) const {
    return {dy, from, mean.const_data_ptr(), dmean.const_data_ptr(), dvar.const_data_ptr()};
  }
};

}  // namespace aminet
