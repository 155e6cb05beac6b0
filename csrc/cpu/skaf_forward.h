// The two ways of skaf_descriptor's forward, between skaf_descriptor.cpp and skaf_winograd.cpp.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "cpu/tensors.h"

namespace aminet {

// By shape and type alone: Winograd multiplies 20 times a pixel and pair of channels instead of 74, but has only the
// kernel sizes 5 and 7, is for float32 (float64 is for exactness, and the processor's own bfloat16 products are faster)
// and does not pay for a handful of pixels or inputs.
bool uses_winograd(const Tensor& x, const std::vector<Tensor>& weights);

// packed: skaf_descriptor_prepack of weights, or nothing.
std::tuple<Tensor, Tensor> winograd_forward(const Tensor& x, const std::vector<Tensor>& weights,
                                            const std::vector<Tensor>& biases, const std::optional<Tensor>& packed);

}  // namespace aminet
