// z = sum_k F_k f'_k + bias + y with f'_k = DW2_k(a f_k) + b'_k, f_k = DW_k(y) + b_k, a = AU(mean f); forward only, and
// aminet_fast_cuda::rdfe_front_fwd. The schema and what is refused are in aminet_fast/ops/rdfe_front.py.
//
// Launches: window_parts and attend (rdfe_front_sums.cuh) read y and give `a`; then
//   24 channels, 16 bits:  front (rdfe_front_forward.cuh), from y to z: images moved 1 + 1 + 1 = 3
//   else:                  filter, from y to f' in memory, and fuse, from f' and y to z: 1 + 1 + 3 and 3 + 1 + 1 = 10
// where Triton's kernels move 10. One kernel needs a row's rings of every channel at once (222 KB at 24@128, so only on
// sm_90 and newer); twice as many channels of half the width would need the same, but leave a multiprocessor 128 pixels of
// work between barriers and 96 or 192 channels do not fit, while their f' (12.6 MB at 96@32) stays in L2.
//
// The one kernel of Triton's header costs 226 multiply-adds for 166, because tiles of 16 x 16 filter their halo again. Here
// rings keep f_k down a band and a window has the whole width: only 6 rows a band are made twice, 182 for bands of 32 rows.
// And they run on tensor cores (rdfe_front_bands.cuh), as 33 m16n8k16 for 128 outputs.
//
// Floors of an H100 at 3.0 TB/s and 800 TFLOP/s dense, batch 32, bf16, beside those of Triton's (bytes; float32 at 67 TFLOP/s):
//
// | c@side | MB here | us | filters, GFLOP | us | MB Triton | us | filters, GFLOP | us |
// |---|---|---|---|---|---|---|---|---|
// | 24@128 | 75.5 | 25.2 | 13.2 | 16.5 | 251.7 | 83.9 | 4.18 | 62.3 |
// | 48@64 | 125.8 | 41.9 | 6.2 | 7.8 | 125.8 | 41.9 | 2.09 | 31.2 |
// | 96@32 | 62.9 | 21.0 | 3.4 | 4.2 | 62.9 | 21.0 | 1.04 | 15.6 |
// | 192@16 | 31.5 | 10.5 | 1.9 | 2.4 | 31.5 | 10.5 | 0.52 | 7.8 |
#include "cuda/tensors.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "cuda/rdfe_front_forward.cuh"
#include "cuda/rdfe_front_fuse.cuh"
#include "cuda/rdfe_front_sums.cuh"

namespace aminet {
namespace {

using namespace rdfe;
using List = std::vector<Tensor>;
constexpr int PLACES = 132;  // of blocks on an H100: bands are as high as fills them
// With fewer blocks of 24 channels two kernels of smaller ones fill more of a GPU; the emulator has no GPU to fill.
#ifdef __CUDACC__
constexpr unsigned FRONT_BLOCKS = 64;
#else
constexpr unsigned FRONT_BLOCKS = 1;
#endif
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

// What one block may have: 99 to 227 KiB.
int shared_memory_of_a_block() {
#ifdef __CUDACC__
  int device = 0, bytes = 0;
  checked(cudaGetDevice(&device));
  checked(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
#else
  return 227 * 1024;
#endif
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

template <typename T, int V>
void add_up(const Tensor& y, Tensor& parts, const Sizes& s, cudaStream_t stream) {
  const int groups = std::min(ceil_div(s.channels, V), SUM_CHANNELS / V), turns = ceil_div(s.channels, groups * V);
  const dim3 grid(Parts(s.height).count() * turns, s.images);
  AMINET_LAUNCH((window_parts<T, V>), grid, SUM_THREADS, 0, stream, data_of<T>(y), room_of<float>(parts), s, groups);
}

// What is between y and z.
struct Between {
  Tensor &a, &sums;
  Tensor packed;  // the fusion's weights, of y's dtype
};

template <typename T>
void run_unit(const Tensor& y, const Parameters& p, Between& between, const Sizes& s, cudaStream_t stream) {
  Tensor parts = floats(y, {s.images, Parts(s.height).count(), LARGEST, s.channels});
  constexpr int V = 16 / sizeof(T);
  s.channels % V == 0 ? add_up<T, V>(y, parts, s, stream) : add_up<T, 1>(y, parts, s, stream);
  const int bytes = (BRANCHES * s.channels + p.unit.hidden) * static_cast<int>(sizeof(float));
  AMINET_LAUNCH((attend<T>), s.images, SUM_THREADS, bytes, stream, data_of<float>(parts), room_of<float>(between.sums),
                room_of<float>(between.a), p.first, p.unit, p.fuse, room_of<T>(between.packed), s);
}

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

template <typename T, int OUTPUTS>
void run_fuse(const Tensor& y, const Parameters& p, const Between& between, const Tensor& f, Tensor& z, const Sizes& s,
              cudaStream_t stream) {
  const int64_t pixels = int64_t(s.images) * s.height * s.width;
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(pixels, FUSE_PIXELS)), ceil_div(s.channels, OUTPUTS));
  if constexpr (std::is_same_v<T, float>) {
    AMINET_LAUNCH((fuse_exactly<T>), grid, FUSE_THREADS, 0, stream, data_of<T>(f), data_of<T>(between.packed),
                  p.fuse_bias, data_of<T>(y), room_of<T>(z), pixels, s.channels);
  } else {
    constexpr int BYTES = 2 * (FUSE_PIXELS + OUTPUTS) * DEPTH_ROW * static_cast<int>(sizeof(T));
    AMINET_LAUNCH((fuse<T, OUTPUTS>), grid, FUSE_THREADS, BYTES, stream, data_of<T>(f), data_of<T>(between.packed),
                  p.fuse_bias, data_of<T>(y), room_of<T>(z), pixels, s.channels);
  }
}

template <typename T>
void run_front(const Tensor& y, const Parameters& p, const Between& between, Tensor& z, const Sizes& s,
               cudaStream_t stream) {
  if constexpr (sizeof(T) == 2)
    if (const Views views = views_of<Wide>(s); s.channels == Wide::CHANNELS && s.width > 64 &&
                                               blocks_of(s, views) >= FRONT_BLOCKS &&
                                               shared_memory_of_a_block() >= FRONT_BYTES) {
      AMINET_LAUNCH((front<T>), blocks_of(s, views), Wide::THREADS, FRONT_BYTES, stream, data_of<T>(y),
                    data_of<float>(between.a), p.first, p.second, data_of<T>(between.packed), p.fuse_bias,
                    room_of<T>(z), s, views);
      return;
    }
  Tensor f = torch::stable::new_empty(y, {s.images, s.height, s.width, BRANCHES, s.channels});
  run_filters<T>(y, p, between, f, s, stream);
  if (sizeof(T) == 4 || s.channels <= EXACT_OUTPUTS)
    run_fuse<T, EXACT_OUTPUTS>(y, p, between, f, z, s, stream);
  else if constexpr (sizeof(T) == 2)
    run_fuse<T, 2 * EXACT_OUTPUTS>(y, p, between, f, z, s, stream);
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& input, const List& parameters) {
  STD_TORCH_CHECK(input.dim() == 4, "rdfe_front: y must be [N, C, H, W]");
  const OnDeviceOf device(input);
  const Tensor y = on_vectors(laid_out(input, MemoryFormat::ChannelsLast));
  const Parameters p(y, parameters);
  const Sizes s = sizes_of(y);
  Tensor z = empty_image(y, s.images, s.channels, s.height, s.width);
  Tensor a = floats(y, {s.images, s.channels}), sums = floats(y, {s.images, LARGEST, LARGEST, s.channels});
  by_dtype(y, [&](auto type) {
    using T = typename decltype(type)::type;
    Between between = {a, sums, torch::stable::new_empty(y, {s.channels, BRANCHES * s.channels})};
    run_unit<T>(y, p, between, s, device.stream);
    run_front<T>(y, p, between, z, s, device.stream);
  });
  return {laid_out(z, format_of(input)), a, sums};
}

}  // namespace
}  // namespace aminet

AMINET_CUDA_LIBRARY(m) { m.impl("rdfe_front_fwd", TORCH_BOX(&aminet::forward)); }
