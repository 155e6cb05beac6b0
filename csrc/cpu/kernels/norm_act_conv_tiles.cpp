// norm_act_conv in tiles of one or 2x2 outputs; float and double. Compiled once per capability (AMINET_CAPABILITY).
//   y = out(in(pad(act(x * scale + shift))) . weight), a product of matrices for each part of a tile
// A unit of the forward keeps its padded rows, its transformed tiles and their products in the second-level cache and
// writes y alone. The backward works on as many tiles as stay in the last-level cache, part by part.
#include <algorithm>

#include "cpu/norm_act_conv.h"
#include "norm_act_conv_moments.h"
#include "norm_act_conv_transforms.h"
#include "norm_act_conv_weights.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

template <typename A, typename T>
void forward_units(const TileForward& a, int64_t first, int64_t last) {
  constexpr int N = A::kParts, O = A::kSize;
  const NormActConvShape& s = a.in.shape;
  const Strip<T> strip{a.in};
  const int64_t K = s.outputs, in_pitch = strip.pitch, out_pitch = tile_padded(K), across = s.tile_columns();
  const int64_t rows = (a.units.rows + O - 1) / O, strip_rows = (rows - 1) * A::kStep + N;
  const int64_t in_plane = rows * across * in_pitch, out_plane = rows * across * out_pitch;
  const Scratch<T> padded = scratch<T>(strip_rows * strip.columns * in_pitch);
  const Scratch<T> inputs = scratch<T>(N * N * in_plane), products = scratch<T>(N * N * out_plane);
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t image = unit / a.units.per_image, first_row = unit % a.units.per_image * a.units.rows;
    const int64_t last_row = std::min(s.out_height, first_row + a.units.rows);
    const int64_t first_tile = first_row / O, tiles = (last_row + O - 1) / O - first_tile;
    for (int64_t r = 0; r < (tiles - 1) * A::kStep + N; ++r)
      strip.row(image, first_tile * A::kStep + r, padded.get() + r * strip.columns * in_pitch);
    for (int64_t i = 0; i < tiles; ++i)
      transform_inputs<A>(s, padded.get() + i * A::kStep * strip.columns * in_pitch,
                          inputs.get() + i * across * in_pitch, in_plane);
    for (int64_t part = 0; part < N * N; ++part)
      Gemm<T>{inputs.get() + part * in_plane, in_pitch, 1,
              static_cast<const T*>(a.weight) + part * s.channels * out_pitch, out_pitch,
              products.get() + part * out_plane, out_pitch, tiles * across, K, s.channels, false}
          .run();
    T* y = static_cast<T*>(a.y) + (image * s.out_height + first_row) * s.out_width * K;
    for (int64_t i = 0; i < tiles; ++i)
      transform_outputs<A>(s, products.get() + i * across * out_pitch, out_plane,
                           std::min<int64_t>(O, last_row - first_row - O * i), y + O * i * s.out_width * K);
    if (a.partial != nullptr)
      sum_moments(y, (last_row - first_row) * s.out_width, K, static_cast<T*>(a.partial) + unit * 3 * K);
  }
}

template <typename A, typename T>
void transform_rows(const TileBackward& a, int64_t first, int64_t last) {
  const NormActConvShape& s = a.in.shape;
  const Strip<T> strip{a.in};
  const int64_t row = strip.columns * strip.pitch, across = s.tile_columns();
  const int64_t tiles = (a.last_row - a.first_row) * across, out_pitch = tile_padded(s.outputs);
  const Scratch<T> padded = scratch<T>(A::kParts * row);
  for (int64_t i = first; i < last; ++i) {
    const int64_t image = i / s.tile_rows(), tile_row = i % s.tile_rows(), at = (i - a.first_row) * across;
    transform_gradients<A>(a, image, tile_row, static_cast<T*>(a.gradients) + at * out_pitch, tiles * out_pitch);
    if (a.dweight == nullptr) continue;
    for (int r = 0; r < A::kParts; ++r) strip.row(image, tile_row * A::kStep + r, padded.get() + r * row);
    transform_inputs<A>(s, padded.get(), static_cast<T*>(a.inputs) + at * strip.pitch, tiles * strip.pitch);
  }
}

// dweight[part][k][c] += sum over tiles of gradients[part][tile][k] * inputs[part][tile][c]
template <typename A, typename T>
void weight_blocks(const TileBackward& a, int64_t first, int64_t last) {
  const NormActConvShape& s = a.in.shape;
  const int64_t C = tile_padded(s.channels), K = tile_padded(s.outputs);
  const int64_t tiles = (a.last_row - a.first_row) * s.tile_columns();
  const int64_t blocks = (s.outputs + kWeightBlock - 1) / kWeightBlock;
  for (int64_t i = first; i < last; ++i) {
    const int64_t part = i / blocks, k = i % blocks * kWeightBlock;
    for (int64_t tile = 0; tile < tiles; tile += 256)
      Gemm<T>{static_cast<const T*>(a.gradients) + (part * tiles + tile) * K + k, 1, K,
              static_cast<const T*>(a.inputs) + (part * tiles + tile) * C, C,
              static_cast<T*>(a.dweight) + (part * s.outputs + k) * C, C,
              std::min(kWeightBlock, s.outputs - k), s.channels, std::min<int64_t>(256, tiles - tile), true}
          .run();
  }
}

// inputs[part][tile][c] = sum over k of gradients[part][tile][k] * weight[part][k][c]
template <typename A, typename T>
void input_blocks(const TileBackward& a, int64_t first, int64_t last) {
  const NormActConvShape& s = a.in.shape;
  const int64_t C = tile_padded(s.channels), K = tile_padded(s.outputs);
  const int64_t tiles = (a.last_row - a.first_row) * s.tile_columns(), blocks = (tiles + kTileBlock - 1) / kTileBlock;
  for (int64_t i = first; i < last; ++i) {
    const int64_t part = i / blocks, tile = i % blocks * kTileBlock;
    Gemm<T>{static_cast<const T*>(a.gradients) + (part * tiles + tile) * K, K, 1,
            static_cast<const T*>(a.weight) + part * s.outputs * C, C,
            static_cast<T*>(a.inputs) + (part * tiles + tile) * C, C,
            std::min(kTileBlock, tiles - tile), s.channels, s.outputs, false}
        .run();
  }
}

template <typename A, typename T>
void bands(const TileBackward& a, int64_t first, int64_t last) {
  const Bands<A, T> run{a};
  const int64_t height = a.in.shape.tile_rows(), across = a.in.shape.tile_columns();
  // Either whole images, or rows of one.
  const int64_t top = a.first_row % height, rows = std::min(height, a.last_row - a.first_row);
  const int64_t per_image = rows + run.kReach - 1;
  for (int64_t i = first; i < last; ++i) {
    const int64_t image = a.first_row / height + i / per_image, band = top + i % per_image;
    const int from = static_cast<int>(std::max<int64_t>(0, band - (top + rows - 1)));
    const int to = static_cast<int>(std::min<int64_t>(run.kReach, band - top + 1));
    const bool add = top > 0 && band - run.kReach + 1 < top;
    run.run(image, band, ((image - a.first_row / height) * rows + band - top) * across, from, to, add);
  }
}

// Calls run<algebra, type>(arguments, first, last); other types are never cut into tiles.
#define AMINET_FOR_TYPE(algebra, run) \
  return scalar == Scalar::f64 ? run<algebra, double>(a, first, last) : run<algebra, float>(a, first, last)
#define AMINET_FOR_TILING(tiling, run)                        \
  switch (tiling) {                                           \
    case Tiling::doubled: AMINET_FOR_TYPE(Doubled, run);      \
    case Tiling::strided: AMINET_FOR_TYPE(Strided, run);      \
    default: AMINET_FOR_TYPE(Winograd, run);                  \
  }

void make_forward_weights(Scalar scalar, const TileWeights& a, int64_t first, int64_t last) {
  AMINET_FOR_TILING(a.shape.tiling, forward_weights)
}
void make_backward_weights(Scalar scalar, const TileWeights& a, int64_t first, int64_t last) {
  AMINET_FOR_TILING(a.shape.tiling, backward_weights)
}
void make_weight_gradient(Scalar scalar, const TileWeights& a, int64_t first, int64_t last) {
  AMINET_FOR_TILING(a.shape.tiling, weight_gradient)
}
void forward(Scalar scalar, const TileForward& a, int64_t first, int64_t last) {
  AMINET_FOR_TILING(a.in.shape.tiling, forward_units)
}
void transform(Scalar scalar, const TileBackward& a, int64_t first, int64_t last) {
  AMINET_FOR_TILING(a.in.shape.tiling, transform_rows)
}
void dweight(Scalar scalar, const TileBackward& a, int64_t first, int64_t last) {
  AMINET_FOR_TILING(a.in.shape.tiling, weight_blocks)
}
void dinputs(Scalar scalar, const TileBackward& a, int64_t first, int64_t last) {
  AMINET_FOR_TILING(a.in.shape.tiling, input_blocks)
}
void dpadded(Scalar scalar, const TileBackward& a, int64_t first, int64_t last) {
  AMINET_FOR_TILING(a.in.shape.tiling, bands)
}

}  // namespace

extern const NormActTileKernels norm_act_conv_tiles = {
    make_forward_weights, make_backward_weights, make_weight_gradient, forward, transform, dweight, dinputs, dpadded};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
