// aminet_fast::batch_norm_affine_fwd and _bwd for CPU tensors; the schemas are in aminet_fast/ops/batch_norm_affine.py.
//
// Vectors of C, on one thread and in double: what it saves is some twenty calls of torch's own operators for a layer.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "cpu/tensors.h"

namespace aminet {
namespace {

using List = std::vector<Tensor>;

void check_vectors(const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var) {
  const int64_t channels = weight.numel();
  STD_TORCH_CHECK(channels > 0 && bias.numel() == channels && mean.numel() == channels && var.numel() == channels,
                  "batch_norm_affine: weight, bias, mean and var must be [C] with C at least 1");
}

template <typename Acc>
const Acc* data(const Tensor& v) {
  return static_cast<const Acc*>(v.const_data_ptr());
}
template <typename Acc>
Acc* room(Tensor& v) {
  return static_cast<Acc*>(v.mutable_data_ptr());
}

// affine: scale, shift, scale, shift, ...
template <typename Acc>
void forward_loop(const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var, double eps,
                  List& affine) {
  const Acc *w = data<Acc>(weight), *b = data<Acc>(bias), *m = data<Acc>(mean), *v = data<Acc>(var);
  for (size_t use = 0; use < affine.size(); use += 2) {
    Acc *scale = room<Acc>(affine[use]), *shift = room<Acc>(affine[use + 1]);
    for (int64_t c = 0; c < weight.numel(); ++c) {
      const double by = w[c] / std::sqrt(v[c] + eps);
      scale[c] = static_cast<Acc>(by);
      shift[c] = static_cast<Acc>(b[c] - m[c] * by);
    }
  }
}

List forward(const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var, double eps,
             int64_t uses) {
  check_vectors(weight, bias, mean, var);
  const ScalarType acc = acc_of(weight);
  const Tensor w = parameter_of(weight, acc), b = parameter_of(bias, acc), m = parameter_of(mean, acc),
               v = parameter_of(var, acc);
  List affine;
  for (int64_t i = 0; i < 2 * uses; ++i) affine.push_back(torch::stable::new_empty(w, {w.numel()}));
  acc == ScalarType::Double ? forward_loop<double>(w, b, m, v, eps, affine)
                            : forward_loop<float>(w, b, m, v, eps, affine);
  return affine;
}

template <typename Acc>
void add_all(const List& from, ScalarType acc, std::vector<double>& to) {
  for (const Tensor& given : from) {
    STD_TORCH_CHECK(given.numel() == static_cast<int64_t>(to.size()), "batch_norm_affine: gradients must be [C]");
    const Tensor v = parameter_of(given, acc);
    for (size_t c = 0; c < to.size(); ++c) to[c] += data<Acc>(v)[c];
  }
}

template <typename Acc>
void backward_loop(const List& dscales, const List& dshifts, const Tensor& weight, const Tensor& mean,
                   const Tensor& var, double eps, List& to) {
  const int64_t channels = weight.numel();
  std::vector<double> dscale(channels), dshift(channels);
  add_all<Acc>(dscales, weight.scalar_type(), dscale);
  add_all<Acc>(dshifts, weight.scalar_type(), dshift);
  const Acc *w = data<Acc>(weight), *m = data<Acc>(mean), *v = data<Acc>(var);
  Acc *dweight = room<Acc>(to[0]), *dbias = room<Acc>(to[1]), *dmean = room<Acc>(to[2]), *dvar = room<Acc>(to[3]);
  for (int64_t c = 0; c < channels; ++c) {
    const double rstd = 1 / std::sqrt(v[c] + eps);
    const double through = dscale[c] - m[c] * dshift[c];  // shift holds scale too
    dweight[c] = static_cast<Acc>(through * rstd);
    dbias[c] = static_cast<Acc>(dshift[c]);
    dmean[c] = static_cast<Acc>(-dshift[c] * w[c] * rstd);
    dvar[c] = static_cast<Acc>(-0.5 * through * w[c] * rstd * rstd * rstd);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const List& dscales, const List& dshifts, const Tensor& weight,
                                                    const Tensor& bias, const Tensor& mean, const Tensor& var,
                                                    double eps) {
  check_vectors(weight, bias, mean, var);
  const ScalarType acc = acc_of(weight);
  const Tensor w = parameter_of(weight, acc), m = parameter_of(mean, acc), v = parameter_of(var, acc);
  List to;
  for (int i = 0; i < 4; ++i) to.push_back(torch::stable::new_empty(w, {w.numel()}));
  acc == ScalarType::Double ? backward_loop<double>(dscales, dshifts, w, m, v, eps, to)
                            : backward_loop<float>(dscales, dshifts, w, m, v, eps, to);
  return {converted(to[0], weight.scalar_type()), converted(to[1], bias.scalar_type()),
          converted(to[2], mean.scalar_type()), converted(to[3], var.scalar_type())};
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("batch_norm_affine_fwd", TORCH_BOX(&aminet::forward));
  m.impl("batch_norm_affine_bwd", TORCH_BOX(&aminet::backward));
}
