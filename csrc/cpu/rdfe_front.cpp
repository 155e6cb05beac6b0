// aminet_fast::rdfe_front_fwd and _bwd for CPU tensors; the schemas are in aminet_fast/ops/rdfe_front.py.
#include "cpu/rdfe_front.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "cpu/tensors.h"

namespace aminet {
namespace {

using List = std::vector<Tensor>;

// Where each parameter stands in the operators' list: weights and biases one after another for each branch.
struct Places {
  size_t branches;
  explicit Places(const List& parameters) : branches((parameters.size() - 6) / 4) {
    STD_TORCH_CHECK(parameters.size() >= 10 && parameters.size() % 4 == 2,
                    "rdfe_front: 4 parameters a branch and 6 more");
  }
  size_t weight1(size_t k) const { return k; }
  size_t bias1(size_t k) const { return branches + k; }
  size_t reduce() const { return 2 * branches; }  // weight, bias, then expand's
  size_t weight2(size_t k) const { return 2 * branches + 4 + k; }
  size_t bias2(size_t k) const { return 3 * branches + 4 + k; }
  size_t fuse() const { return 4 * branches + 4; }
};

RdfeShape shape_of(const Tensor& y, const List& parameters) {
  const Places at(parameters);
  STD_TORCH_CHECK(y.dim() == 4 && y.numel() > 0, "rdfe_front: y must be [N, C, H, W] with every size at least 1");
  RdfeShape s = {y.size(0), y.size(1), y.size(2), y.size(3), parameters[at.reduce()].size(0), {}};
  const int64_t branches = static_cast<int64_t>(at.branches), C = s.channels;
  for (size_t k = 0; k < at.branches; ++k) {
    const Tensor& weight = parameters[at.weight1(k)];
    STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) % 2 == 1, "rdfe_front: weights must be [C, 1, K, K] of odd K");
    s.kernels.push_back(weight.size(2));
    const int64_t elements = C * weight.size(2) * weight.size(2);
    STD_TORCH_CHECK(weight.numel() == elements && parameters[at.weight2(k)].numel() == elements &&
                        parameters[at.bias1(k)].numel() == C && parameters[at.bias2(k)].numel() == C,
                    "rdfe_front: a branch's parameters must be [C, 1, K, K] and [C], twice");
  }
  STD_TORCH_CHECK(parameters[at.reduce()].numel() == s.hidden * branches * C &&
                      parameters[at.reduce() + 1].numel() == s.hidden &&
                      parameters[at.reduce() + 2].numel() == s.hidden * C && parameters[at.reduce() + 3].numel() == C &&
                      parameters[at.fuse()].numel() == branches * C * C && parameters[at.fuse() + 1].numel() == C,
                  "rdfe_front: reduce, expand and fuse do not fit C and the branches");
  return s;
}

template <typename Acc>
const Acc* data(const Tensor& t) {
  return static_cast<const Acc*>(t.const_data_ptr());
}

// [C, 1, K, K] and [C] of every branch to [block][branch][tap][channel of the block].
template <typename Acc>
void pack_depthwise(const RdfeShape& s, const List& weights, size_t first, bool bias, Acc* to) {
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int64_t k = 0; k < s.branches(); ++k) {
      const int64_t taps = bias ? 1 : s.kernels[k] * s.kernels[k];
      const int64_t channel = block * s.block(), count = std::min(s.block(), s.channels - channel);
      const Acc* from = data<Acc>(weights[first + k]) + channel * taps;
      for (int64_t tap = 0; tap < taps; ++tap, to += s.block())
        for (int64_t c = 0; c < count; ++c) to[c] = from[c * taps + tap];
    }
}

// fuse [output][branch][channel] to [branch][block][channel of the block][padded outputs] ...
template <typename Acc>
void pack_fuse_forward(const RdfeShape& s, const Acc* from, Acc* to) {
  const int64_t C = s.channels;
  for (int64_t first = 0; first < C; first += 16)  // so many rows of `from` stay in cache
    for (int64_t k = 0; k < s.branches(); ++k)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t o = first; o < std::min(C, first + 16); ++o)
          to[(k * s.padded() + c) * s.padded() + o] = from[(o * s.branches() + k) * C + c];
}

// ... and to [block][branch][output][channel of the block].
template <typename Acc>
void pack_fuse_backward(const RdfeShape& s, const Acc* from, Acc* to) {
  const int64_t C = s.channels;
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int64_t k = 0; k < s.branches(); ++k)
      for (int64_t o = 0; o < C; ++o, to += s.block()) {
        const int64_t channel = block * s.block(), count = std::min(s.block(), C - channel);
        std::copy_n(from + (o * s.branches() + k) * C + channel, count, to);
      }
}

// The parameters in Acc and as the kernels read them; holds the memory.
struct Packed {
  List kept;
  RdfeParameters pointers;

  template <typename Acc>
  void pack(const RdfeShape& s, const List& parameters, bool forward, const Tensor& like) {
    const Places at(parameters);
    const ScalarType acc = acc_of(like);
    List dense;
    for (const Tensor& parameter : parameters) dense.push_back(parameter_of(parameter, acc));
    const auto room = [&](int64_t count) {  // zeros where the packing leaves gaps
      kept.push_back(s.padded() == s.channels ? torch::stable::new_empty(like, {count}, acc)
                                              : torch::stable::new_zeros(like, {count}, acc));
      return static_cast<Acc*>(kept.back().mutable_data_ptr());
    };
    const int64_t blocks = s.blocks() * s.block();
    Acc *weight1 = room(blocks * s.taps()), *weight2 = room(blocks * s.taps());
    Acc *bias1 = room(blocks * s.branches()), *bias2 = room(blocks * s.branches());
    Acc* fuse = room(s.branches() * (forward ? s.padded() : s.channels) * s.padded());
    pack_depthwise(s, dense, at.weight1(0), false, weight1);
    pack_depthwise(s, dense, at.weight2(0), false, weight2);
    pack_depthwise(s, dense, at.bias1(0), true, bias1);
    pack_depthwise(s, dense, at.bias2(0), true, bias2);
    forward ? pack_fuse_forward(s, data<Acc>(dense[at.fuse()]), fuse)
            : pack_fuse_backward(s, data<Acc>(dense[at.fuse()]), fuse);
    pointers = {weight1, bias1, weight2, bias2, data<Acc>(dense[at.reduce()]), data<Acc>(dense[at.reduce() + 1]),
                data<Acc>(dense[at.reduce() + 2]), data<Acc>(dense[at.reduce() + 3]), fuse,
                data<Acc>(dense[at.fuse() + 1])};
    kept.insert(kept.end(), dense.begin(), dense.end());
  }
  Packed(const RdfeShape& s, const List& parameters, bool forward, const Tensor& like) {
    acc_of(like) == ScalarType::Double ? pack<double>(s, parameters, forward, like)
                                       : pack<float>(s, parameters, forward, like);
  }
};

// Images for the kernels: Acc, channels innermost.
Tensor image_of(const Tensor& x, ScalarType acc) { return laid_out(converted(x, acc), MemoryFormat::ChannelsLast); }

Tensor empty_image(const RdfeShape& s, const Tensor& like, ScalarType acc) {
  return torch::stable::empty({s.images, s.channels, s.height, s.width}, acc, std::nullopt, like.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& input, const List& parameters,
                                           const std::optional<Tensor>& /* packed: of GPUs */,
                                           const std::string& /* backend: of GPUs */) {
  const RdfeShape s = shape_of(input, parameters);
  const ScalarType acc = acc_of(input);
  const Tensor y = image_of(input, acc);
  const Packed packed(s, parameters, true, y);
  Tensor z = empty_image(s, y, acc);
  Tensor a = torch::stable::new_empty(y, {s.images, s.channels});
  Tensor sums = torch::stable::new_empty(y, {s.images, s.size(), s.size(), s.channels});
  const RdfeForward arguments = {s,
                                 packed.pointers,
                                 y.const_data_ptr(),
                                 z.mutable_data_ptr(),
                                 a.mutable_data_ptr(),
                                 sums.mutable_data_ptr()};
  const Scalar scalar = scalar_of(y);
  const RdfeFrontKernels& kernels = AMINET_PICK(rdfe_front);
  parallel_for(0, s.images, 1, [&](int64_t first, int64_t last) {
    kernels.attend(scalar, arguments, first, last);
  });
  parallel_for(0, s.images * s.forward_bands(), 1, [&](int64_t first, int64_t last) {
    kernels.rows(scalar, arguments, first, last);
  });
  return {laid_out(converted(z, input.scalar_type()), format_of(input)), a, sums};
}

void run(const RdfeBackward& b, Scalar scalar) {
  const RdfeShape& s = b.shape;
  const RdfeFrontBackwardKernels& kernels = AMINET_PICK(rdfe_front_backward);
  parallel_for(0, s.images * s.backward_bands() * s.blocks(), 1, [&](int64_t first, int64_t last) {
    kernels.rows(scalar, b, first, last);
  });
  kernels.attend(scalar, b);
  if (b.dy != nullptr) {
    parallel_for(0, s.images, 1, [&](int64_t first, int64_t last) {
      kernels.spread(scalar, b, first, last);
    });
    const int64_t grain = std::max<int64_t>(1, 16384 / (s.width * s.channels));
    parallel_for(0, s.images * s.height, grain, [&](int64_t first, int64_t last) {
      kernels.add_spread(scalar, b, first, last);
    });
  }
  if (b.need_parameters)
    parallel_for(0, s.channels, 16, [&](int64_t first, int64_t last) {
      kernels.fuse(scalar, b, first, last);
    });
}

std::tuple<Tensor, List> backward(const Tensor& grad, const Tensor& input, const Tensor& a_input,
                                  const Tensor& sums_input, const List& parameters, bool need_y, bool need_parameters,
                                  const std::string&) {
  const RdfeShape s = shape_of(input, parameters);
  const Places at(parameters);
  const ScalarType acc = acc_of(input);
  const Tensor y = image_of(input, acc), dz = image_of(grad, acc);
  const Tensor a = torch::stable::contiguous(a_input), sums = torch::stable::contiguous(sums_input);
  STD_TORCH_CHECK(grad.numel() == input.numel() && a.numel() == s.images * s.channels && a.scalar_type() == acc &&
                      sums.numel() == s.images * s.size() * s.size() * s.channels && sums.scalar_type() == acc,
                  "rdfe_front: dz, a and sums must be those of y");
  const Packed packed(s, parameters, false, y);
  Tensor dy = need_y ? empty_image(s, y, acc) : torch::stable::new_empty(y, {0});
  List gradients;
  for (const Tensor& parameter : need_parameters ? parameters : List{}) {
    std::vector<int64_t> size;
    for (int64_t i = 0; i < parameter.dim(); ++i) size.push_back(parameter.size(i));
    gradients.push_back(torch::stable::new_zeros(y, size));
  }
  const int64_t size = s.size();
  const int64_t units = s.images * s.backward_bands() * s.blocks();
  const Tensor partial = torch::stable::new_empty(y, {units, RdfePartial(s).total});
  const Tensor constant = torch::stable::new_empty(y, {s.images, s.branches(), s.channels});
  const Tensor spread = torch::stable::new_empty(y, {s.images, size, size, need_y ? s.channels : 0});

  RdfeBackward b = {};
  b.shape = s;
  b.parameters = packed.pointers;
  b.dz = dz.const_data_ptr();
  b.y = y.const_data_ptr();
  b.a = a.const_data_ptr();
  b.sums = sums.const_data_ptr();
  b.need_parameters = need_parameters;
  b.dy = need_y ? dy.mutable_data_ptr() : nullptr;
  b.partial = partial.mutable_data_ptr();
  b.constant = constant.mutable_data_ptr();
  b.spread = spread.mutable_data_ptr();
  const auto gradient = [&](size_t i) { return gradients[i].mutable_data_ptr(); };
  if (need_parameters) {
    for (size_t k = 0; k < at.branches; ++k) {
      b.dweight1.push_back(gradient(at.weight1(k)));
      b.dbias1.push_back(gradient(at.bias1(k)));
      b.dweight2.push_back(gradient(at.weight2(k)));
      b.dbias2.push_back(gradient(at.bias2(k)));
    }
    b.dreduce_weight = gradient(at.reduce());
    b.dreduce_bias = gradient(at.reduce() + 1);
    b.dexpand_weight = gradient(at.reduce() + 2);
    b.dexpand_bias = gradient(at.reduce() + 3);
    b.dfuse = gradient(at.fuse());
    b.dfuse_bias = gradient(at.fuse() + 1);
  }
  run(b, scalar_of(y));
  for (size_t i = 0; i < gradients.size(); ++i) gradients[i] = converted(gradients[i], parameters[i].scalar_type());
  dy = converted(dy, input.scalar_type());
  return {need_y ? laid_out(dy, format_of(input)) : dy, gradients};
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_IMPL(aminet_fast, CPU, m) {
  m.impl("rdfe_front_fwd", TORCH_BOX(&aminet::forward));
  m.impl("rdfe_front_bwd", TORCH_BOX(&aminet::backward));
}
