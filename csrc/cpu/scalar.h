// The element types of the kernels' data. Statistics, weights and sums ("Acc") are float, or double where it is double.
#pragma once

namespace aminet {

enum class Scalar { f32, f64, bf16, f16 };

}  // namespace aminet
