// norm_act_conv in tiles of one or 2x2 outputs. Compiled once per capability (AMINET_CAPABILITY); float and double only.
//   y = out(in(pad(act(x * scale + shift))) . weight), a product of matrices for each part of a tile
// A unit of the forward keeps its padded rows, its transformed tiles and their products in the second-level cache and
// writes y alone. The backward works on as many tiles as stay in the last-level cache, part by part.
#include <algorithm>

#include "cpu/norm_act_conv.h"
#include "gemm.h"
#include "norm_act_conv_algebra.h"
#include "norm_act_conv_moments.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// The padded activation, with channels rounded up to whole vectors and rows and columns up to whole tiles.
template <typename T>
struct Strip {
  const NormAct& a;
  const NormActConvShape& s = a.shape;
  const int64_t C = s.channels, pitch = tile_padded(C), columns = s.strip_columns();
  const Scratch<T> scale = rounded_up(a.scale), shift = rounded_up(a.shift);

  Scratch<T> rounded_up(const void* from) const {
    Scratch<T> to = scratch<T>(pitch);
    std::fill_n(to.get(), pitch, T(0));
    std::copy_n(static_cast<const T*>(from), C, to.get());
    return to;
  }

  void row(int64_t image, int64_t padded_row, T* to) const {
    const int64_t y = padded_row < a.rows->size() ? a.rows->source[padded_row] : -1;
    const T* from = static_cast<const T*>(a.x) + (image * s.height + std::max<int64_t>(y, 0)) * s.width * C;
    const Vector<T> zero = {};
    const T slope = static_cast<T>(a.slope);
    for (int64_t i = 0; i < columns; ++i, to += pitch) {
      const int64_t x = y >= 0 && i < a.columns->size() ? a.columns->source[i] : -1;
      for (int64_t c = 0; c < C; c += kLanes<T>) {
        Vector<T> v = zero;
        if (x >= 0) {
          v = load_some(from + x * C + c, C - c) * load(scale.get() + c) + load(shift.get() + c);
          v = v > zero ? v : v * slope;
        }
        store(to + c, v);
      }
    }
  }
};

// A row of tiles: strip [parts][columns][pitch] -> parts * parts planes of [tile][pitch], `plane` apart.
template <typename A, typename T>
void transform_inputs(const NormActConvShape& s, const T* strip, T* to, int64_t plane) {
  constexpr int N = A::kParts;
  const int64_t pitch = tile_padded(s.channels), row = s.strip_columns() * pitch;
  for (int64_t tile = 0; tile < s.tile_columns(); ++tile)
    for (int64_t c = 0; c < s.channels; c += kLanes<T>) {
      const T* from = strip + tile * A::kStep * pitch + c;
      Vector<T> half[N][N];  // [column][part]
#pragma GCC unroll 4
      for (int x = 0; x < N; ++x) {
        Vector<T> d[N];
#pragma GCC unroll 4
        for (int y = 0; y < N; ++y) d[y] = load(from + y * row + x * pitch);
        A::in(d, half[x]);
      }
#pragma GCC unroll 4
      for (int y = 0; y < N; ++y) {
        Vector<T> d[N], m[N];
#pragma GCC unroll 4
        for (int x = 0; x < N; ++x) d[x] = half[x][y];
        A::in(d, m);
#pragma GCC unroll 4
        for (int x = 0; x < N; ++x) store(to + (y * N + x) * plane + tile * pitch + c, m[x]);
      }
    }
}

// A row of tiles: planes of products [tile][pitch] -> kSize rows of y, or fewer at an odd end.
template <typename A, typename T>
void transform_outputs(const NormActConvShape& s, const T* from, int64_t plane, int64_t rows, T* y) {
  constexpr int N = A::kParts, O = A::kSize;
  const int64_t K = s.outputs, pitch = tile_padded(K);
  for (int64_t tile = 0; tile < s.tile_columns(); ++tile) {
    const int64_t columns = std::min<int64_t>(O, s.out_width - O * tile);
    for (int64_t k = 0; k < K; k += kLanes<T>) {
      Vector<T> half[N][O];
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        Vector<T> m[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) m[j] = load(from + (i * N + j) * plane + tile * pitch + k);
        A::out(m, half[i]);
      }
#pragma GCC unroll 2
      for (int x = 0; x < O; ++x) {
        Vector<T> m[N], out[O];
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i) m[i] = half[i][x];
        A::out(m, out);
        for (int i = 0; i < rows && x < columns; ++i)
          store_some(y + (i * s.out_width + O * tile + x) * K + k, out[i], K - k);
      }
    }
  }
}

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

// One row of tiles of the output's gradient into planes of [tile][pitch].
template <typename A, typename T>
void transform_gradients(const TileBackward& a, int64_t image, int64_t tile_row, T* to, int64_t plane) {
  constexpr int N = A::kParts, O = A::kSize;
  const NormActConvShape& s = a.in.shape;
  const int64_t K = s.outputs, pitch = tile_padded(K);
  const int64_t rows = std::min<int64_t>(O, s.out_height - O * tile_row);
  const int64_t start = (image * s.out_height + O * tile_row) * s.out_width * K;
  const T *dy = static_cast<const T*>(a.out.dy) + start, *y = static_cast<const T*>(a.out.y) + start;
  const T *mean = static_cast<const T*>(a.out.mean), *dmean = static_cast<const T*>(a.out.dmean);
  const T* dvar = static_cast<const T*>(a.out.dvar);
  for (int64_t tile = 0; tile < s.tile_columns(); ++tile) {
    const int64_t columns = std::min<int64_t>(O, s.out_width - O * tile);
    for (int64_t k = 0; k < K; k += kLanes<T>) {
      Vector<T> half[O][N];
      Vector<T> m = {}, dm = {}, dv = {};
      if (a.out.y != nullptr) {
        m = load_some(mean + k, K - k);
        dm = load_some(dmean + k, K - k);
        dv = load_some(dvar + k, K - k);
      }
#pragma GCC unroll 2
      for (int x = 0; x < O; ++x) {
        Vector<T> d[O] = {};
        for (int i = 0; i < rows && x < columns; ++i) {
          const int64_t at = (i * s.out_width + O * tile + x) * K + k;
          d[i] = load_some(dy + at, K - k);
          if (a.out.y != nullptr) d[i] += dm + dv * (load_some(y + at, K - k) - m);
        }
        A::out_adjoint(d, half[x]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        Vector<T> d[O], out[N];
        for (int x = 0; x < O; ++x) d[x] = half[x][i];
        A::out_adjoint(d, out);
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) store(to + (i * N + j) * plane + tile * pitch + k, out[j]);
      }
    }
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

// Band i of an image is the padded rows [kStep * i, kStep * (i + 1)); kReach rows of tiles overlap there. Tiles of
// one band overlap along the row too: what reaches into the next tile's columns is carried to it.
template <typename A, typename T>
struct Bands {
  static constexpr int N = A::kParts, S = A::kStep, kReach = (N + S - 1) / S, kCarried = N - S;
  const TileBackward& a;
  const NormActConvShape& s = a.in.shape;
  const int64_t C = s.channels, pitch = tile_padded(C), across = s.tile_columns();
  const int64_t tiles = (a.last_row - a.first_row) * across;

  void emit(T* row, int64_t column, const Vector<T>& v, int64_t c, bool add) const {
    if (column >= a.in.columns->size()) return;
    T* to = row + column * C + c;
    store_some(to, add ? v + load_some(to, C - c) : v, C - c);
  }

  // tile: the first of the band's row of tiles in `inputs`; reaches [from, to) of the rows above are in this range.
  void run(int64_t image, int64_t band, int64_t tile, int from, int to, bool add) const {
    const int64_t rows = std::min<int64_t>(S, a.in.rows->size() - band * S), row = a.in.columns->size() * C;
    if (rows <= 0) return;
    T* out = static_cast<T*>(a.dpadded) + (image * a.in.rows->size() + band * S) * row;
    const T* inputs = static_cast<const T*>(a.inputs);
    for (int64_t c = 0; c < C; c += kLanes<T>) {
      Vector<T> carry[S][kCarried] = {};
      for (int64_t x = 0; x < across; ++x) {
        Vector<T> sum[S][N] = {};
#pragma GCC unroll 4
        for (int reach = 0; reach < kReach; ++reach) {
          if (reach < from || reach >= to) continue;
          const T* part = inputs + (tile - reach * across + x) * pitch + c;
#pragma GCC unroll 4
          for (int j = 0; j < N; ++j) {
            Vector<T> m[N], d[N];
#pragma GCC unroll 4
            for (int i = 0; i < N; ++i) m[i] = load(part + (i * N + j) * tiles * pitch);
            A::in_adjoint(m, d);
#pragma GCC unroll 2
            for (int r = 0; r < S; ++r)
              if (S * reach + r < N) sum[r][j] += d[S * reach + r];
          }
        }
#pragma GCC unroll 2
        for (int r = 0; r < S; ++r) {
          Vector<T> d[N];
          A::in_adjoint(sum[r], d);
#pragma GCC unroll 4
          for (int i = 0; i < kCarried; ++i) d[i] += carry[r][i];
          if (r < rows)
            for (int i = 0; i < S; ++i) emit(out + r * row, x * S + i, d[i], c, add);
#pragma GCC unroll 4
          for (int i = 0; i < kCarried; ++i) carry[r][i] = d[i + S];
        }
      }
      for (int r = 0; r < rows; ++r)
        // Beyond what a tile reaches there is at most a column of zeros.
        for (int i = 0; i <= kCarried; ++i)
          emit(out + r * row, across * S + i, i < kCarried ? carry[r][i] : Vector<T>{}, c, add);
    }
  }
};

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

// weight [outputs][3][3][channels] -> [part][c][outputs rounded up]; blocks of both, turned in the first-level cache.
template <typename A, typename T>
void forward_weights(const TileWeights& a, int64_t first, int64_t last) {
  constexpr int N = A::kParts;
  constexpr int64_t B = kTilePadding;
  const int64_t C = a.shape.channels, K = a.shape.outputs, pitch = tile_padded(K);
  alignas(64) T w[B][9][B] = {};
  for (int64_t c = first; c < last; c += B)
    for (int64_t k = 0; k < K; k += B) {
      const int64_t count = std::min(B, last - c);
      for (int64_t j = 0; j < std::min(B, K - k); ++j)
        for (int64_t tap = 0; tap < 9; ++tap) {
          const T* from = static_cast<const T*>(a.weight) + ((k + j) * 9 + tap) * C + c;
          for (int64_t i = 0; i < count; ++i) w[i][tap][j] = from[i];
        }
      for (int64_t i = 0; i < count; ++i)
        for (int64_t j = 0; j < B; j += kLanes<T>) {
          Vector<T> half[3][N];
          for (int y = 0; y < 3; ++y) {
            Vector<T> d[3];
            for (int x = 0; x < 3; ++x) d[x] = load(&w[i][y * 3 + x][j]);
            A::weight(d, half[y], T(0.5));
          }
          for (int x = 0; x < N; ++x) {
            const Vector<T> d[3] = {half[0][x], half[1][x], half[2][x]};
            Vector<T> m[N];
            A::weight(d, m, T(0.5));
            for (int y = 0; y < N; ++y)
              store(static_cast<T*>(a.to) + ((y * N + x) * C + c + i) * pitch + k + j, m[y]);
          }
        }
    }
}

// weight [outputs][3][3][channels] -> [part][k][channels rounded up]
template <typename A, typename T>
void backward_weights(const TileWeights& a, int64_t first, int64_t last) {
  constexpr int N = A::kParts;
  const int64_t C = a.shape.channels, K = a.shape.outputs, pitch = tile_padded(C);
  for (int64_t k = first; k < last; ++k)
    for (int64_t c = 0; c < C; c += kLanes<T>) {
      Vector<T> half[3][N];
      for (int y = 0; y < 3; ++y) {
        Vector<T> d[3];
        for (int x = 0; x < 3; ++x)
          d[x] = load_some(static_cast<const T*>(a.weight) + (k * 9 + y * 3 + x) * C + c, C - c);
        A::weight(d, half[y], T(0.5));
      }
      for (int x = 0; x < N; ++x) {
        const Vector<T> d[3] = {half[0][x], half[1][x], half[2][x]};
        Vector<T> m[N];
        A::weight(d, m, T(0.5));
        for (int y = 0; y < N; ++y) store(static_cast<T*>(a.to) + ((y * N + x) * K + k) * pitch + c, m[y]);
      }
    }
}

// dweight [part][k][channels rounded up] -> [outputs][3][3][channels]
template <typename A, typename T>
void weight_gradient(const TileWeights& a, int64_t first, int64_t last) {
  constexpr int N = A::kParts;
  const int64_t C = a.shape.channels, K = a.shape.outputs, pitch = tile_padded(C);
  for (int64_t k = first; k < last; ++k)
    for (int64_t c = 0; c < C; c += kLanes<T>) {
      Vector<T> half[N][3];
      for (int y = 0; y < N; ++y) {
        Vector<T> m[N];
        for (int x = 0; x < N; ++x) m[x] = load(static_cast<const T*>(a.dweight) + ((y * N + x) * K + k) * pitch + c);
        A::weight_adjoint(m, half[y], T(0.5));
      }
      for (int x = 0; x < 3; ++x) {
        Vector<T> m[N], d[3];
        for (int y = 0; y < N; ++y) m[y] = half[y][x];
        A::weight_adjoint(m, d, T(0.5));
        for (int y = 0; y < 3; ++y)
          store_some(static_cast<T*>(a.to) + (k * 9 + y * 3 + x) * C + c, d[y], C - c);
      }
    }
}

// Calls run<algebra, type>(arguments, first, last); other types are never cut into tiles.
#define AMINET_FOR_TILING(tiling, run)                                                                    \
  const bool is_double = scalar == Scalar::f64;                                                           \
  switch (tiling) {                                                                                       \
    case Tiling::doubled: return is_double ? run<Doubled, double>(a, first, last) : run<Doubled, float>(a, first, last); \
    case Tiling::strided: return is_double ? run<Strided, double>(a, first, last) : run<Strided, float>(a, first, last); \
    default: return is_double ? run<Winograd, double>(a, first, last) : run<Winograd, float>(a, first, last); \
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
