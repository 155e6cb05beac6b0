// The backward of RDFE's front. Compiled once per capability (AMINET_CAPABILITY). With a f_k = f_k * a:
//   df'_k = fuse_k^T dz;  R_k = sum df'_k x shifted f_k;  dW2_k = a R_k;  da = sum_k W2_k . R_k
//   df_k = a DW2_k^T df'_k + constant_k, through the attention unit;  dW1_k from y, df_k;  dy = sum_k DW1_k^T df_k + dz
// `rows` computes all of it but the constant's part, from y and dz alone, a band of rows and a block of channels at a
// time: f_k, df'_k and df_k live in rings of rows, f'_k in a few rows that are multiplied with dz together. da needs no
// pass over pixels, as it is a product of R and the weights. A constant image needs no convolution either: its part of
// dW1 is the constant times sums of y that the forward kept, its part of dy takes one value away from the borders.
#include "cpu/rdfe_front.h"

#include "rdfe_front_gradients.h"
#include "rdfe_front_rows.h"
#include "small_gemm.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

template <typename Acc>
struct Backward {
  const RdfeBackward& b;
  const RdfeShape& s = b.shape;
  const int64_t C = s.channels, block = s.block(), row = s.width * block;
  const RdfePartial at{s};
  static constexpr auto rounded = Scratch<Acc>::rounded;
  const int64_t group = (64 + s.width - 1) / s.width;  // rows of f' that are multiplied with dz together
  Scratch<Acc> scratch{Features<Acc>::count(s) + 2 * Features<Acc>::branch_count(s) +
                       s.branches() * rounded(group * row) +
                       3 * rounded(s.taps() * block) + rounded(row) + rounded(block)};
  Features<Acc> features{s, scratch};
  std::vector<Ring<Acc>> dfp_rows{}, df_rows{};
  std::vector<Acc*> fp{};  // [row of the group][pixel][channel of the block]
  std::vector<int64_t> next_dfp{}, next_df{};
  Acc* scale = scratch.take(block);
  Acc *second = scratch.take(s.taps() * block), *second_turned = scratch.take(s.taps() * block);  // times a
  Acc* first_turned = scratch.take(s.taps() * block);
  Acc* sums = scratch.take(row);
  const Acc *dz = nullptr, *fuse = nullptr, *bias2 = nullptr;
  Acc* partial = nullptr;

  explicit Backward(const RdfeBackward& b) : b(b), next_dfp(s.kernels.size()), next_df(s.kernels.size()) {
    for (int64_t k : s.kernels) {
      dfp_rows.emplace_back(scratch, k, k / 2, s.width, block, s.height);
      df_rows.emplace_back(scratch, k, k / 2, s.width, block, s.height);
      fp.push_back(scratch.take(group * row));
    }
  }

  void start(int64_t image, int64_t index, int64_t first_row) {
    const RdfeParameters& p = b.parameters;
    const int64_t weights = index * s.taps() * block;
    features.start(p, static_cast<const Acc*>(b.y) + image * s.pixels() * C, index, first_row);
    dz = static_cast<const Acc*>(b.dz) + image * s.pixels() * C;
    fuse = static_cast<const Acc*>(p.fuse) + index * s.branches() * C * block;
    bias2 = static_cast<const Acc*>(p.bias2) + index * s.branches() * block;
    block_of(s, static_cast<const Acc*>(b.a) + image * C, index, scale);
    scaled_weights(s, static_cast<const Acc*>(p.weight2) + weights, scale, false, second);
    scaled_weights(s, static_cast<const Acc*>(p.weight2) + weights, scale, true, second_turned);
    scaled_weights<Acc>(s, static_cast<const Acc*>(p.weight1) + weights, nullptr, true, first_turned);
    std::fill_n(partial, at.fuse, Acc(0));
    for (int64_t k = 0; k < s.branches(); ++k) {
      next_df[k] = std::max<int64_t>(0, first_row - s.kernels[k] / 2);
      next_dfp[k] = std::max<int64_t>(0, first_row - s.kernels[k] / 2 * 2);
    }
  }

  // df_k of the rows that a convolution meets around row y, and df'_k of those that they need.
  void advance(int64_t y) {
    const Acc* w = second_turned;
    for (int64_t k = 0; k < s.branches(); ++k) {
      const int64_t size = s.kernels[k], reach = size / 2;
      for (; next_df[k] <= std::min(y + reach, s.height - 1); ++next_df[k]) {
        for (; next_dfp[k] <= std::min(next_df[k] + reach, s.height - 1); ++next_dfp[k]) {
          const Acc* from = dz + next_dfp[k] * s.width * C;
          gemm<Acc>({&from, 1, C, 1, C, fuse + k * C * block, block, dfp_rows[k].inside(next_dfp[k]), block, false},
                    s.width, block);
        }
        const Acc* const* window = dfp_rows[k].window(next_df[k], reach);
        depthwise_row<Acc, false>(size, window, w, nullptr, s.width, block, df_rows[k].inside(next_df[k]), block);
      }
      w += size * size * block;
    }
  }

  void add_pixels(const Acc* in, int64_t stride, int64_t channels, Acc* to) {
    std::fill_n(sums, channels, Acc(0));
    for (int64_t x = 0; x < s.width; ++x)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) sums[c] += in[x * stride + c];
    for (int64_t c = 0; c < channels; ++c) to[c] += sums[c];
  }

  // What row y adds to the parameters' gradients and da; slot: where f' is kept among its group.
  void add_weights(int64_t y, int64_t slot) {
    int64_t taps = 0;
    for (int64_t k = 0; k < s.branches(); ++k) {
      const int64_t size = s.kernels[k], reach = size / 2;
      const Acc* const* window = features.f_rows[k].window(y, reach);
      Acc *weight1 = partial + at.weight1 + taps * block, *weight2 = partial + at.weight2 + taps * block;
      depthwise_weight_row<Acc>(size, window, dfp_rows[k].inside(y), s.width, block, weight2);
      if (b.need_parameters) {
        depthwise_row<Acc, false>(size, window, second + taps * block, bias2 + k * block, s.width, block,
                                  fp[k] + slot * row, block);
        window = features.y_rows.window(y, reach);
        depthwise_weight_row<Acc>(size, window, df_rows[k].inside(y), s.width, block, weight1);
        add_pixels(df_rows[k].inside(y), block, block, partial + at.f + k * block);
      }
      taps += size * size;
    }
    if (b.need_parameters)
      add_pixels(dz + y * s.width * C + features.channel, C, features.channels, partial + at.z);
  }

  // first: nothing is there yet.
  void add_fuse(int64_t first_row, int64_t rows, bool first) {
    const Acc* from = dz + first_row * s.width * C;
    Acc* to = partial + at.fuse;
    for (int64_t k = 0; k < s.branches(); ++k, to += C * block)
      gemm<Acc>({&from, 1, 1, C, rows * s.width, fp[k], block, to, block, !first}, C, block);
  }

  void write_dy(int64_t image, int64_t y) {
    const Acc* w = first_turned;
    for (int64_t k = 0; k < s.branches(); ++k) {
      const Acc* const* window = df_rows[k].window(y, s.kernels[k] / 2);
      if (k == 0)
        depthwise_row<Acc, false>(s.kernels[k], window, w, nullptr, s.width, block, sums, block);
      else
        depthwise_row<Acc, true>(s.kernels[k], window, w, nullptr, s.width, block, sums, block);
      w += s.kernels[k] * s.kernels[k] * block;
    }
    const Acc* from = dz + y * s.width * C + features.channel;
    Acc* to = static_cast<Acc*>(b.dy) + (image * s.pixels() + y * s.width) * C + features.channel;
    for (int64_t x = 0; x < s.width; ++x)
#pragma omp simd
      for (int64_t c = 0; c < features.channels; ++c) to[x * C + c] = sums[x * block + c] + from[x * C + c];
  }

  void run(int64_t unit) {
    const int64_t bands = s.backward_bands(), index = unit % s.blocks(), band = unit / s.blocks() % bands;
    const int64_t image = unit / s.blocks() / bands;
    const int64_t first_row = s.height * band / bands, last_row = s.height * (band + 1) / bands;
    partial = static_cast<Acc*>(b.partial) + unit * at.total;
    start(image, index, first_row);
    for (int64_t y = first_row, held = 0; y < last_row; ++y) {
      features.advance(y);
      advance(y);
      add_weights(y, held++);
      if (b.dy != nullptr) write_dy(image, y);
      if (!b.need_parameters || (held < group && y + 1 < last_row)) continue;
      add_fuse(y + 1 - held, held, y + 1 - held == first_row);
      held = 0;
    }
  }
};

template <typename Acc>
void backward_units(const RdfeBackward& b, int64_t first, int64_t last) {
  Backward<Acc> backward(b);
  for (int64_t unit = first; unit < last; ++unit) backward.run(unit);
}

#define AMINET_FOR_ACC(run, ...) scalar == Scalar::f64 ? run<double>(__VA_ARGS__) : run<float>(__VA_ARGS__)

void rows(Scalar scalar, const RdfeBackward& b, int64_t first, int64_t last) {
  AMINET_FOR_ACC(backward_units, b, first, last);
}
void attend(Scalar scalar, const RdfeBackward& b) { AMINET_FOR_ACC(attend_images, b); }
void spread(Scalar scalar, const RdfeBackward& b, int64_t first, int64_t last) {
  AMINET_FOR_ACC(spread_images, b, first, last);
}
void add_spread(Scalar scalar, const RdfeBackward& b, int64_t first, int64_t last) {
  AMINET_FOR_ACC(add_spread_rows, b, first, last);
}
void fuse(Scalar scalar, const RdfeBackward& b, int64_t first, int64_t last) {
  AMINET_FOR_ACC(fuse_outputs, b, first, last);
}

}  // namespace

extern const RdfeFrontBackwardKernels rdfe_front_backward = {rows, attend, spread, add_spread, fuse};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
