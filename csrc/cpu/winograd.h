// The sizes of Winograd's transformed weights, for both sides of the operators that use them (kernels/winograd*.h).
#pragma once

#include <algorithm>
#include <cstdint>

namespace aminet {

// U's outputs come in blocks of so many, each block's positions after one another, whatever the capability: three
// vectors of AVX-512, as many as a step of the product holds in registers.
constexpr int64_t kWinogradOutputs = 48;
// Outputs are rounded up to a multiple of this, with zeros.
constexpr int64_t kWinogradMultiple = 8;
// Fewer inputs would not fill a vector.
constexpr int64_t kWinogradLeastInputs = 8;

inline int64_t winograd_padded(int64_t outputs) {
  return (outputs + kWinogradMultiple - 1) / kWinogradMultiple * kWinogradMultiple;
}

// Floats of U. points: in one direction, m + r - 1.
inline int64_t winograd_weight_size(int64_t outputs, int64_t inputs, int64_t points) {
  return winograd_padded(outputs) * inputs * points * points;
}

}  // namespace aminet
