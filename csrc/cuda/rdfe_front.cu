// z = sum_k F_k f'_k + bias + y with f'_k = DW2_k(a f_k) + b'_k, f_k = DW_k(y) + b_k, a = AU(mean f), and its gradients:
// aminet_fast_cuda::rdfe_front_fwd and _bwd. The schemas and what is refused are in aminet_fast/ops/rdfe_front.py, the
// backward's launches in rdfe_front_backward.h.
//
// Forward: window_parts and attend (rdfe_front_sums.cuh) read y and give `a`; then
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
// The backward is two walks of this kind, in each 15 products for 128 outputs three times: two convolutions, and sums for dW.
// 12 or 21 images for Triton's 33 (docs/kernels/rdfe_front.md has its floors).
//
// Floors of the forward on an H100 at 3.0 TB/s and 800 TFLOP/s dense, batch 32, bf16, beside those of Triton's (bytes;
// float32 at 67 TFLOP/s):
//
// | c@side | MB here | us | filters, GFLOP | us | MB Triton | us | filters, GFLOP | us |
// |---|---|---|---|---|---|---|---|---|
// | 24@128 | 75.5 | 25.2 | 13.2 | 16.5 | 251.7 | 83.9 | 4.18 | 62.3 |
// | 48@64 | 125.8 | 41.9 | 6.2 | 7.8 | 125.8 | 41.9 | 2.09 | 31.2 |
// | 96@32 | 62.9 | 21.0 | 3.4 | 4.2 | 62.9 | 21.0 | 1.04 | 15.6 |
// | 192@16 | 31.5 | 10.5 | 1.9 | 2.4 | 31.5 | 10.5 | 0.52 | 7.8 |
#include "cuda/tensors.h"

#include <optional>
#include <tuple>

#include "cuda/rdfe_front_backward.h"
#include "cuda/rdfe_front_call.h"

namespace aminet {
namespace {

using namespace rdfe;
// With fewer blocks of 24 channels two kernels of smaller ones fill more of a GPU; the emulator has no GPU to fill.
#if defined(__CUDACC__) || defined(EMULATED_COUNTED)  // as a GPU runs them
constexpr unsigned FRONT_BLOCKS = 64;
#else
constexpr unsigned FRONT_BLOCKS = 1;
#endif

template <typename T, int V>
void add_up(const Tensor& y, Tensor& parts, const Sizes& s, cudaStream_t stream) {
  const int groups = std::min(ceil_div(s.channels, V), SUM_CHANNELS / V), turns = ceil_div(s.channels, groups * V);
  const dim3 grid(Parts(s.height).count() * turns, s.images);
  AMINET_LAUNCH((window_parts<T, V>), grid, SUM_THREADS, 0, stream, data_of<T>(y), room_of<float>(parts), s, groups);
}

template <typename T>
void run_unit(const Tensor& y, const Parameters& p, Between& between, const Sizes& s, cudaStream_t stream) {
  Tensor parts = floats(y, {s.images, Parts(s.height).count(), LARGEST, s.channels});
  constexpr int V = 16 / sizeof(T);
  s.channels % V == 0 ? add_up<T, V>(y, parts, s, stream) : add_up<T, 1>(y, parts, s, stream);
  const int bytes = (BRANCHES * s.channels + p.unit.hidden) * static_cast<int>(sizeof(float));
  AMINET_LAUNCH((attend<T>), s.images, SUM_THREADS, bytes, stream, data_of<float>(parts), room_of<float>(between.sums),
                room_of<float>(between.a), p.first, p.unit, p.fuse, room_of<T>(between.packed), s);
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
  const AddTo<T> finish = {data_of<T>(y), p.fuse_bias, room_of<T>(z), s.channels};
  const int64_t pixels = int64_t(s.images) * s.height * s.width;
  const int length = BRANCHES * s.channels;
  if (sizeof(T) == 4 || s.channels <= EXACT_OUTPUTS)
    run_product<T, EXACT_OUTPUTS>(f, between.packed, pixels, length, s.channels, finish, stream);
  else if constexpr (sizeof(T) == 2)
    run_product<T, 2 * EXACT_OUTPUTS>(f, between.packed, pixels, length, s.channels, finish, stream);
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& input, const List& parameters,
                                           const std::optional<Tensor>& /* packed: Triton's */) {
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

AMINET_CUDA_LIBRARY(m) {
  m.impl("rdfe_front_fwd", TORCH_BOX(&aminet::forward));
  m.impl("rdfe_front_bwd", TORCH_BOX(&aminet::rdfe::backward));
}
