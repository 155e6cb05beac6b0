// What the torch sides of the operators (csrc/cpu/*.cpp) share.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/scalar.h"

namespace aminet {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Scalar scalar_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Scalar::f32;
    case ScalarType::Double: return Scalar::f64;
    case ScalarType::BFloat16: return Scalar::bf16;
    case ScalarType::Half: return Scalar::f16;
    default: STD_TORCH_CHECK(false, "aminet_fast: data must be float32, float64, bfloat16 or float16");
  }
}

inline ScalarType acc_of(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The rule of the fakes in aminet_fast/ops too: channels that are neighbours stay so, anything else becomes NCHW.
inline MemoryFormat format_of(const Tensor& x) {
  return x.stride(1) == 1 ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// Without gaps and in the type of the sums.
inline Tensor parameter_of(const Tensor& v, ScalarType acc) {
  return torch::stable::contiguous(torch::stable::to(v, acc));
}

}  // namespace aminet
