// What the torch sides of the operators on the CPU (csrc/cpu/*.cpp) share.
#pragma once

#include "cpu/parallel.h"
#include "cpu/scalar.h"
#include "common/tensors.h"

namespace aminet {

inline Scalar scalar_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Scalar::f32;
    case ScalarType::Double: return Scalar::f64;
    case ScalarType::BFloat16: return Scalar::bf16;
    case ScalarType::Half: return Scalar::f16;
    default: STD_TORCH_CHECK(false, "aminet_fast: data must be float32, float64, bfloat16 or float16");
  }
}

}  // namespace aminet
