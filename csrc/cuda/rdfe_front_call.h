// What the torch sides of rdfe_front's forward and backward share: parameters, how images are cut, and launches that both
// make. Include it after tensors.h.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/rdfe_front_forward.cuh"
#include "cuda/rdfe_front_fuse.cuh"
#include "cuda/rdfe_front_sums.cuh"

namespace aminet::rdfe {
namespace {

using List = std::vector<Tensor>;
constexpr int PLACES = 132;  // of blocks on an H100: bands are as high as fills them
constexpr int COLUMNS = 16;  // of a strip, whose shared memory any GPU has

// The operator's list of parameters as the kernels read them; holds the memory.
struct Parameters {
  List kept;
  Depthwise first, second;
  Unit unit;
  Parameter fuse, fuse_bias;

  Parameters(const Tensor& y, const List& given) {
    STD_TORCH_CHECK(given.size() == 4 * BRANCHES + 6, "rdfe_front: 18 parameters of three branches");
    const int64_t C = y.size(1), hidden = given[2 * BRANCHES].size(0);
    kept.reserve(given.size());
    const auto next = [&](int64_t elements) -> Parameter {
      const Tensor& p = given[kept.size()];
      const bool wide = p.scalar_type() == ScalarType::Float;
      STD_TORCH_CHECK(p.numel() == elements && (wide || p.scalar_type() == y.scalar_type()),
                      "rdfe_front: a parameter has another size or dtype than it must have");
      kept.push_back(p.is_contiguous() ? p : torch::stable::contiguous(p));
      return {kept.back().const_data_ptr(), wide};
    };
    const auto depthwise = [&](Depthwise& d) {
      for (int k = 0; k < BRANCHES; ++k) d.weight[k] = next(C * kernel_of(k) * kernel_of(k));
      for (int k = 0; k < BRANCHES; ++k) d.bias[k] = next(C);
    };
    depthwise(first);
    unit.reduce_weight = next(hidden * BRANCHES * C);
    unit.reduce_bias = next(hidden);
    unit.expand_weight = next(C * hidden);
    unit.expand_bias = next(C);
    unit.hidden = static_cast<int>(hidden);
    depthwise(second);
    fuse = next(BRANCHES * C * C);
    fuse_bias = next(C);
  }
};

Sizes sizes_of(const Tensor& y) {
  return {static_cast<int>(y.size(0)), static_cast<int>(y.size(1)), static_cast<int>(y.size(2)),
          static_cast<int>(y.size(3))};
}

// x, or a copy where it does not begin at a multiple of 16 bytes.
Tensor on_vectors(const Tensor& x) {
  if (reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0) return x;
  Tensor copy = empty_image(x, x.size(0), x.size(1), x.size(2), x.size(3));
  torch::stable::copy_(copy, x);
  return copy;
}

Tensor floats(const Tensor& y, std::initializer_list<int64_t> size) {
  return torch::stable::new_empty(y, std::vector<int64_t>(size), ScalarType::Float);
}

// Rows of a band such that there are blocks for a GPU, of which there are `others` a band of all images. Each band makes
// f_k of 6 rows more: not for fewer than 8.
int band_rows(const Sizes& s, int64_t others) {
  const int wanted = static_cast<int>(std::max<int64_t>(1, ceil_div<int64_t>(PLACES, others)));
  return std::min(s.height, ceil_div(ceil_div(s.height, wanted), 8) * 8);
}

Cut cut_of(const Sizes& s) {
  const int across = ceil_div(s.width, COLUMNS), blocks = ceil_div(s.channels, BLOCK);
  const int rows = band_rows(s, int64_t(s.images) * across * blocks);
  return {across, ceil_div(s.height, rows), rows, blocks};
}

template <typename W>
Views views_of(const Sizes& s) {
  const int across = s.width <= W::COLUMNS ? 1 : 1 + ceil_div(s.width - W::COLUMNS, W::COLUMNS - 2 * MARGIN);
  const int blocks = ceil_div(s.channels, W::CHANNELS);
  const int rows = band_rows(s, int64_t(s.images) * across * blocks);
  return {across, ceil_div(s.height, rows), rows, blocks};
}

template <typename Grid>
unsigned blocks_of(const Sizes& s, const Grid& cut) {
  return static_cast<unsigned>(int64_t(s.images) * cut.across * cut.bands * cut.blocks);
}

// What is between y and z.
struct Between {
  Tensor &a, &sums;
  Tensor packed;  // the fusion's weights, of y's dtype
};

// f' by windows of 8 SEGMENTS columns.
template <typename T, int SEGMENTS>
void run_filter(const Tensor& y, const Parameters& p, const Between& between, Tensor& f, const Sizes& s,
                cudaStream_t stream) {
  using W = Window<SEGMENTS, VECTOR, 1>;
  const Views views = views_of<W>(s);
  AMINET_LAUNCH((filter<T, SEGMENTS>), blocks_of(s, views), W::THREADS, W::BYTES, stream, data_of<T>(y),
                data_of<float>(between.a), p.first, p.second, room_of<T>(f), s, views);
}

template <typename T>
void run_filters(const Tensor& y, const Parameters& p, const Between& between, Tensor& f, const Sizes& s,
                 cudaStream_t stream) {
  if constexpr (sizeof(T) == 2) {
    if (s.width <= 16) return run_filter<T, 2>(y, p, between, f, s, stream);
    if (s.width <= 32) return run_filter<T, 4>(y, p, between, f, s, stream);
    return run_filter<T, 8>(y, p, between, f, s, stream);
  } else {
    using S = Strip<T, COLUMNS>;
    const Cut cut = cut_of(s);
    AMINET_LAUNCH((filter_exactly<T, COLUMNS>), blocks_of(s, cut), S::THREADS, S::BYTES, stream, data_of<T>(y),
                  data_of<float>(between.a), p.first, p.second, room_of<T>(f), s, cut);
  }
}

// from [pixels, length] by weights [outputs, length].
template <typename T, int OUTPUTS, typename Finish>
void run_product(const Tensor& from, const Tensor& weights, int64_t pixels, int length, int outputs,
                 const Finish& finish, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(pixels, FUSE_PIXELS)), ceil_div(outputs, OUTPUTS));
  if constexpr (std::is_same_v<T, float>) {
    AMINET_LAUNCH((fuse_exactly<T, Finish>), grid, FUSE_THREADS, 0, stream, data_of<T>(from), data_of<T>(weights), pixels,
                  length, outputs, finish);
  } else {
    constexpr int BYTES = 2 * (FUSE_PIXELS + OUTPUTS) * DEPTH_ROW * static_cast<int>(sizeof(T));
    AMINET_LAUNCH((fuse<T, OUTPUTS, Finish>), grid, FUSE_THREADS, BYTES, stream, data_of<T>(from), data_of<T>(weights),
                  pixels, length, outputs, finish);
  }
}

}  // namespace
}  // namespace aminet::rdfe
