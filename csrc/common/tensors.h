// What the torch sides of the operators (csrc/cpu/*.cpp, csrc/cuda/*.cu) share.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <iterator>

namespace aminet {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline ScalarType acc_of(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The rule of the fakes in aminet_fast/ops too: channels that are neighbours stay so, anything else becomes NCHW.
inline MemoryFormat format_of(const Tensor& x) {
  return x.stride(1) == 1 ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// to() and contiguous() cost a call through the dispatcher, which shows at the network's small sizes, also where they
// change nothing; these do not.
inline Tensor converted(const Tensor& x, ScalarType type) {
  return x.scalar_type() == type ? x : torch::stable::to(x, type);
}

// Whether the elements lie without gaps in the order of the dimensions given, outermost first.
template <typename Order>
bool dense(const Tensor& x, const Order& order) {
  int64_t stride = 1;
  for (auto dim = std::rbegin(order); dim != std::rend(order); stride *= x.size(*dim++))
    if (x.size(*dim) != 1 && x.stride(*dim) != stride) return false;
  return true;
}

// x [N, C, H, W]
inline Tensor laid_out(const Tensor& x, MemoryFormat format) {
  constexpr int kPlanes[] = {0, 1, 2, 3}, kPixels[] = {0, 2, 3, 1};
  const bool as_wanted = format == MemoryFormat::ChannelsLast ? dense(x, kPixels) : dense(x, kPlanes);
  return as_wanted ? x : torch::stable::contiguous(x, format);
}

// Without gaps and of that type.
inline Tensor parameter_of(const Tensor& v, ScalarType type) {
  const Tensor x = converted(v, type);
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

}  // namespace aminet
