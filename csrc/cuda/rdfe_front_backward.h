// The torch side of rdfe_front's backward: what follows what. With f_k = DW1_k(y) + b_k again,
//
//   df'_k = F_k^T dz;  S2_k = f_k (x) df'_k, from which dW2, db2 and da;  const_k by the unit;
//   df_k = a DW2_k^T(df'_k) + const_k;  dW1, db1 = y (x) df_k;  dy = sum_k DW1_k^T(df_k) + dz;  dF = dz (x) f'_k
//
// In images moved, where Triton's kernels move 33: 16 bits: df' by products, two walks on tensor cores (rdfe_front_back.cuh),
// dF by products: 4 + 7 + 6 + 4 = 21, or to 48 channels, where the walks make df', 5 + 3 + 4 = 12. float32: passes
// of their own (rdfe_front_exact.h), whose multiply-adds are exact: 39.
#pragma once

#include <tuple>

#include "cuda/rdfe_front_back_walk.cuh"
#include "cuda/rdfe_front_call.h"
#include "cuda/rdfe_front_exact.h"
#include "cuda/rdfe_front_gradient.cuh"
#include "cuda/rdfe_front_unit.cuh"

namespace aminet::rdfe {
namespace {

// Of one call: what is given, and what is made on the way.
template <typename T>
struct Backward {
  const Tensor &dz, &y, &a, &sums;
  const Parameters& p;
  Sizes s;
  List& gradients;  // of the parameters; empty: not wanted
  Tensor& dy;       // without elements: not wanted
  cudaStream_t stream;
  int64_t pixels = int64_t(s.images) * s.height * s.width;
  // Inputs of the fusion as they are in df', f' and partial sums: [branch][block][group].
  int group = sizeof(T) == 2 ? VECTOR : s.channels, blocks = ceil_div(s.channels, group);
  int inputs = BRANCHES * blocks * group;
  Tensor constant = floats(y, {BRANCHES, s.images, s.channels});

  bool wants_y() const { return dy.numel() != 0; }
  bool wants_parameters() const { return !gradients.empty(); }
  Gradient gradient(size_t i) { return gradient_of(gradients[i]); }

  // df'_k of all branches, [branch][block][pixel][group].
  Tensor before_fuse() {
    Tensor df = torch::stable::new_empty(y, {BRANCHES, blocks, pixels, group});
    Tensor turned = torch::stable::new_empty(y, {inputs, s.channels});
    const int64_t weights = int64_t(inputs) * s.channels;
    AMINET_LAUNCH((turn_fuse<T>), unsigned(ceil_div<int64_t>(weights, SUM_THREADS)), SUM_THREADS, 0, stream, p.fuse,
                  room_of<T>(turned), s.channels, group, blocks);
    const Apart<T> finish = {room_of<T>(df), pixels, group, inputs};
    if constexpr (sizeof(T) == 2)
      run_product<T, 2 * EXACT_OUTPUTS>(dz, turned, pixels, s.channels, inputs, finish, stream);
    else
      run_product<T, EXACT_OUTPUTS>(dz, turned, pixels, s.channels, inputs, finish, stream);
    return df;
  }

  // da and, from it, constant; gradients of the unit's parameters.
  void through_unit(const Tensor& da) {
    const int hidden = p.unit.hidden;
    Tensor mean = floats(y, {s.images, BRANCHES * s.channels}), dlogit = floats(y, {s.images, s.channels});
    Tensor active = floats(y, {s.images, hidden}), dhidden = floats(y, {s.images, hidden});
    const UnitVectors vectors = {room_of<float>(mean), room_of<float>(active), room_of<float>(dhidden),
                                 room_of<float>(dlogit), room_of<float>(constant)};
    const int bytes = (4 * s.channels + 2 * hidden) * int(sizeof(float));
    AMINET_LAUNCH((unit_backward<T>), s.images, SUM_THREADS, bytes, stream, data_of<float>(sums), data_of<float>(a),
                  data_of<float>(da), p.first, p.unit, vectors, s);
    if (!wants_parameters()) return;
    const UnitGradients to = {gradient(6), gradient(7), gradient(8), gradient(9)};
    const int64_t elements = int64_t(hidden) * (4 * s.channels + 1) + s.channels;
    AMINET_LAUNCH((unit_parameters<T>), unsigned(ceil_div<int64_t>(elements, SUM_THREADS)), SUM_THREADS, 0, stream,
                  vectors, to, hidden, s);
  }

  // dF and dbias from f' in df's layout, or for float32 [pixel][inputs].
  void of_fuse(const Tensor& f) {
    constexpr bool EXACT = sizeof(T) == 4;
    const bool few = s.channels <= 24;
    const int left = EXACT ? EXACT_INPUTS : few ? 80 : 48, right = EXACT ? EXACT_GRADIENTS : few ? 24 : 48;
    const int across = ceil_div(EXACT ? inputs + 1 : inputs, left), down = ceil_div(s.channels, right);
    const int64_t all = ceil_div<int64_t>(pixels, GRADIENT_PIXELS);
    const int64_t wanted = std::min<int64_t>(all, std::max(1, 2 * PLACES / (across * down)));
    const int chunks = static_cast<int>(ceil_div(all, wanted));
    const Splits splits = {pixels, static_cast<int>(ceil_div<int64_t>(all, chunks)), chunks};
    Tensor partial = floats(y, {splits.count, inputs + 1, s.channels});
    const dim3 grid(splits.count, across, down);
    const auto launch = [&](auto kernel, int bytes) {
      AMINET_LAUNCH(kernel, grid, GRADIENT_THREADS, bytes, stream, data_of<T>(f), data_of<T>(dz),
                    room_of<float>(partial), splits, inputs, s.channels);
    };
    if constexpr (EXACT)
      launch(fuse_gradient_exactly<T>, 0);
    else if (few)
      launch(fuse_gradient<T, 5, 3>, Gradients<5, 3>::BYTES);
    else
      launch(fuse_gradient<T, 3, 6>, Gradients<3, 6>::BYTES);
    const int64_t elements = int64_t(inputs + 1) * s.channels;
    AMINET_LAUNCH((fold_fuse<T>), unsigned(ceil_div<int64_t>(elements, FOLD_LANES)), dim3(FOLD_LANES, FOLD_ROWS), 0,
                  stream, data_of<float>(partial), splits.count, gradient(16), gradient(17), s.channels, group, blocks);
  }

  List three(size_t first) const { return {p.kept[first], p.kept[first + 1], p.kept[first + 2]}; }
  List gradients_of(size_t first) const { return {gradients[first], gradients[first + 1], gradients[first + 2]}; }
  // The branches of [branch, N, H, W, C] or [branch, N, C], as [N, C, H, W] or [N, C].
  static List branches_of(const Tensor& all) {
    List found;
    for (int k = 0; k < BRANCHES; ++k) {
      found.push_back(torch::stable::select(all, 0, k));
      if (found.back().dim() == 4)
        found.back() = torch::stable::transpose(torch::stable::transpose(found.back(), 1, 3), 2, 3);
    }
    return found;
  }

  void exactly();
  template <int SEGMENTS, bool AGAIN, int DEPTH>
  void walk(const Tensor& df, Tensor* out, Tensor* da);
  template <int SEGMENTS, int DEPTH>
  void on_tensor_cores();
};

// By the exact passes; f'_k as the forward makes it.
template <typename T>
void Backward<T>::exactly() {
  using exact::Pass;
  const std::vector<int64_t> size = {BRANCHES, s.images, s.height, s.width, s.channels};
  const auto room = [&] { return branches_of(torch::stable::new_empty(y, size)); };
  const List before = branches_of(torch::stable::view(before_fuse(), size));
  List f = room(), df = room();
  exact::filter(Pass::kSpread, {y}, three(0), three(3), nullptr, false, f, s, stream);
  const bool all = wants_parameters();
  Tensor da = floats(y, {s.images, s.channels});
  exact::parameter_gradients(before, f, three(10), &a, all ? gradients_of(10) : List{}, all ? gradients_of(13) : List{},
                             &da, s, stream);
  through_unit(da);
  exact::filter(Pass::kEach, before, three(10), branches_of(constant), &a, true, df, s, stream);
  if (wants_y()) {
    List to = {dy};
    exact::filter(Pass::kSummed, df, three(0), {}, nullptr, true, to, s, stream);
    const int64_t elements = pixels * s.channels;
    AMINET_LAUNCH((add_images<T>), unsigned(std::min<int64_t>(ceil_div<int64_t>(elements, SUM_THREADS), 8 * PLACES)),
                  SUM_THREADS, 0, stream, data_of<T>(dz), room_of<T>(dy), elements);
  }
  if (!all) return;
  exact::parameter_gradients(df, {y}, three(0), nullptr, gradients_of(0), gradients_of(3), nullptr, s, stream);
  Tensor given = a, unused = sums, again = torch::stable::new_empty(y, {pixels, inputs});
  run_filters<T>(y, p, {given, unused, again}, again, s, stream);
  of_fuse(again);
}

// Bands such that the blocks of `others` a band take the least time on PLACES multiprocessors, of one block each.
template <typename W>
Views back_views(const Sizes& s) {
  Views views = views_of<W>(s);
  const int64_t others = int64_t(s.images) * views.across * views.blocks;
  int64_t least = INT64_MAX;
  for (int bands = 1; bands <= ceil_div(s.height, 8); ++bands) {
    const int rows = ceil_div(ceil_div(s.height, bands), W::STEP) * W::STEP, count = ceil_div(s.height, rows);
    const int64_t time = ceil_div<int64_t>(others * count, PLACES) * (rows + W::LEAD + W::STEP);
    if (time < least) least = time, views.rows = rows, views.bands = count;
  }
  return views;
}

// back<AGAIN>: f' or dy to *out and what its sums are gradients of; da where it is wanted.
template <typename T>
template <int SEGMENTS, bool AGAIN, int DEPTH>
void Backward<T>::walk(const Tensor& df, Tensor* out, Tensor* da) {
  using W = Back<SEGMENTS, AGAIN, DEPTH>;
  const Views views = back_views<W>(s);
  const int64_t shares = int64_t(s.images) * views.across * views.bands;
  const bool adds = wants_parameters() || da != nullptr;
  Tensor partial = floats(y, {adds ? shares : 0, PARTIAL_ROWS, views.blocks * VECTOR});
  const BackCall<T> call = {data_of<T>(y), data_of<T>(df), data_of<T>(dz), out == nullptr ? nullptr : room_of<T>(*out),
                            data_of<float>(a), data_of<float>(constant), p.first, p.second, p.fuse,
                            adds ? room_of<float>(partial) : nullptr, s, views};
  AMINET_LAUNCH((back<T, SEGMENTS, AGAIN, DEPTH>), blocks_of(s, views), W::THREADS, W::BYTES, stream, call);
  if (!adds) return;
  FoldCall fold = {};
  fold.partial = call.partial;
  fold.channels = s.channels, fold.padded = views.blocks * VECTOR;
  fold.shares = shares, fold.of_image = views.across * views.bands;
  for (int k = 0; k < BRANCHES; ++k) {
    fold.weight[k] = AGAIN ? p.second.weight[k] : p.first.weight[k];
    if (!wants_parameters()) continue;
    fold.dweight[k] = gradient((AGAIN ? 10 : 0) + k), fold.dbias[k] = gradient((AGAIN ? 13 : 3) + k);
  }
  if (AGAIN) fold.scale = {a.const_data_ptr(), true};
  fold_sums<T>(fold, wants_parameters(), da, s.images, stream);
}

template <typename T>
template <int SEGMENTS, int DEPTH>
void Backward<T>::on_tensor_cores() {
  const Tensor df = DEPTH > 0 ? dz : before_fuse();
  Tensor again = torch::stable::new_empty(y, {wants_parameters() ? pixels * inputs : 0}), da = floats(y, {s.images, s.channels});
  walk<SEGMENTS, true, DEPTH>(df, wants_parameters() ? &again : nullptr, &da);
  through_unit(da);
  walk<SEGMENTS, false, DEPTH>(df, wants_y() ? &dy : nullptr, nullptr);
  if (wants_parameters()) of_fuse(again);
}

template <typename T>
void run_backward(Backward<T>&& call) {
  if constexpr (sizeof(T) == 4) return call.exactly();
  if constexpr (sizeof(T) == 2) {
    const int width = call.s.width, channels = call.s.channels;
    const auto holds = [&](int depth, int bytes) {
      return channels % VECTOR == 0 && channels <= depth && shared_memory_of_a_block() >= bytes;
    };
    if (width <= 16) return call.template on_tensor_cores<2, 0>();
    if (width <= 32) return call.template on_tensor_cores<4, 0>();
    if (width > 64 && holds(32, Back<16, false, 32>::BYTES)) return call.template on_tensor_cores<16, 32>();
    if (holds(48, Back<8, false, 48>::BYTES)) return call.template on_tensor_cores<8, 48>();
    call.template on_tensor_cores<8, 0>();
  }
}

std::tuple<Tensor, List> backward(const Tensor& gradient, const Tensor& input, const Tensor& a, const Tensor& sums,
                                  const List& parameters, bool need_y, bool need_parameters) {
  STD_TORCH_CHECK(input.dim() == 4 && gradient.numel() == input.numel(), "rdfe_front: dz must be [N, C, H, W] as y is");
  const OnDeviceOf device(input);
  const Tensor y = on_vectors(laid_out(input, MemoryFormat::ChannelsLast));
  const Tensor dz = on_vectors(laid_out(converted(gradient, y.scalar_type()), MemoryFormat::ChannelsLast));
  const Parameters p(y, parameters);
  const Sizes s = sizes_of(y);
  const int64_t vectors = int64_t(s.images) * s.channels;
  STD_TORCH_CHECK(a.numel() == vectors && sums.numel() == vectors * LARGEST * LARGEST &&
                      a.scalar_type() == ScalarType::Float && sums.scalar_type() == ScalarType::Float,
                  "rdfe_front: a and sums must be those that the forward gave for y");
  const Tensor dense_a = parameter_of(a, ScalarType::Float), dense_sums = parameter_of(sums, ScalarType::Float);
  Tensor dy = need_y ? empty_image(y, s.images, s.channels, s.height, s.width) : torch::stable::new_empty(y, {0});
  List gradients;
  for (const Tensor& parameter : need_parameters ? parameters : List{})
    gradients.push_back(torch::stable::new_empty(parameter, parameter.sizes()));
  by_dtype(y, [&](auto type) {
    using T = typename decltype(type)::type;
    run_backward(Backward<T>{dz, y, dense_a, dense_sums, p, s, gradients, dy, device.stream});
  });
  return {need_y ? laid_out(dy, format_of(input)) : dy, gradients};
}

}  // namespace
}  // namespace aminet::rdfe
