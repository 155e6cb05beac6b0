// The mean, max and argmax over the channels of conv5x5 and conv7x7, whose outputs stay in cache (see skaf_winograd.h).
// A block is a run of groups of tiles, sized so that its V and M stay in the second-level cache while U streams past.
// Each convolution's sum, max and index are kept in maps of their own: at a block's border the tiles of the two do not
// cover the same pixels, and so no pixel is written twice. `combine` joins them.
#include "cpu/skaf_winograd.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/kernels/winograd.h"
#include "cpu/kernels/winograd_multiply.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

constexpr int L = kLanes<float>, kSize = EightPoints::kSize, kPositions = kSize * kSize;
typedef decltype(Vector<float>{} < Vector<float>{}) Mask;  // also integers as wide as float

// Of some channels: their sum, the largest and its index. As in torch.max NaN is larger than any number, and the first
// of several maxima is taken.
struct Best {
  Vector<float> sum, best;
  Mask found;
};

inline Mask beats(const Vector<float>& v, const Vector<float>& best) {
  return (v > best) | ((v != v) & (best == best));
}

inline Best joined(const Best& a, const Best& b) {
  const Mask same = (a.best == b.best) | ((a.best != a.best) & (b.best != b.best));
  const Mask take = beats(b.best, a.best) | (same & (b.found < a.found));
  return {a.sum + b.sum, take ? b.best : a.best, take ? b.found : a.found};
}

// L pixels whose channels are spread over the lanes to one whose lanes are the pixels.
template <int kHalf = L / 2>
inline void reduce(Best* pixels) {
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i) {
    const Best a = pixels[i], b = pixels[i + kHalf];
    pixels[i] = joined({exchanged<kHalf, false>(a.sum, b.sum), exchanged<kHalf, false>(a.best, b.best),
                        exchanged<kHalf, false>(a.found, b.found)},
                       {exchanged<kHalf, true>(a.sum, b.sum), exchanged<kHalf, true>(a.best, b.best),
                        exchanged<kHalf, true>(a.found, b.found)});
  }
  if constexpr (kHalf > 1) reduce<kHalf / 2>(pixels);
}

struct Tile {
  int64_t image, row, column;  // of the 7x7's tiles
};

int64_t up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

struct Blocks {
  const SkafWinograd& a;
  const int64_t C = a.inputs, H = a.height, W = a.width;
  const int64_t columns = a.group_columns(), groups = a.images * a.group_rows() * columns;
  const int64_t rows = 4 * a.groups + kTileRows;  // tiles in V and M; `multiply` takes whole groups of kTileRows
  // A line more than the tiles need, lest all positions meet in one set of the cache.
  const int64_t v_stride = up(rows * C, L) + L, m_stride = up(rows * kWinogradOutputs, L) + L;
  const std::unique_ptr<float[]> memory{new float[kPositions * (v_stride + m_stride) + L]};
  float* const v = memory.get() + -(reinterpret_cast<uintptr_t>(memory.get()) / sizeof(float)) % L;
  float* const m = v + kPositions * v_stride;
  std::vector<float> strip = std::vector<float>(strip_columns<EightPoints, 2>(2 * a.groups) * kSize * L);
  std::vector<Best> best = std::vector<Best>(up(16 * a.groups, L));  // of each pixel of a block, for one convolution
  std::vector<int64_t> places = std::vector<int64_t>(4 * a.groups);  // of each group's four tiles in V, or -1
  std::vector<Tile> tiles = {};                                      // in the order of V
  int64_t only_five = 0, fives = 0;

  // First the tiles that only the 5x5 has (at the lower and right border), then those that both have, then those that
  // only the 7x7 has: each convolution's are neighbours.
  void list_tiles(int64_t first, int64_t last) {
    tiles.clear();
    std::fill(places.begin(), places.end(), -1);
    int64_t sizes[3];
    for (int pass = 0; pass < 3; ++pass) {
      for (int64_t g = first; g < last; ++g)
        for (int64_t i = 0; i < 4; ++i) {
          const int64_t image = g / columns / a.group_rows(), row = g / columns % a.group_rows() * 2 + i / 2;
          const int64_t column = g % columns * 2 + i % 2;
          const bool five = i == 0, seven = 2 * row < H && 2 * column < W;
          if ((five && !seven && pass == 0) || (five && seven && pass == 1) || (!five && seven && pass == 2)) {
            places[(g - first) * 4 + i] = tiles.size();
            tiles.push_back({image, row, column});
          }
        }
      sizes[pass] = tiles.size();
    }
    only_five = sizes[0], fives = sizes[1];
  }

  void transform(int64_t first, int64_t last) {
    for (int64_t g = first; g < last;) {
      const int64_t end = std::min(last, g / columns * columns + columns);
      const int64_t image = g / columns / a.group_rows(), row = g / columns % a.group_rows();
      const ZeroPadded loader = {a.x + image * H * W * C, H, W, C};
      for (int64_t i = 0; i < (4 * row + 2 < H ? 2 : 1); ++i)
        transform_strip<EightPoints, 2>(
            loader, 4 * row + 2 * i - 3, g % columns * 4 - 3, 2 * (end - g),
            [&](int64_t t) { return places[(g - first + t / 2) * 4 + 2 * i + t % 2]; }, strip.data(), v, v_stride);
      g = end;
    }
    const int64_t read = std::max(up(fives, kTileRows), only_five + up(tiles.size() - only_five, kTileRows));
    for (int64_t p = 0; p < kPositions; ++p)  // what `multiply` reads beyond the last tile
      std::fill(v + p * v_stride + tiles.size() * C, v + p * v_stride + read * C, 0.f);
  }

  // The outputs [o, o + width) of one convolution at `count` tiles from place `from` on, into `best`.
  template <int kSide>
  void add_outputs(const SkafWinogradConv& conv, int64_t from, int64_t count, int64_t o, int64_t width) {
    constexpr int kPixels = kSide * kSide;
    const int64_t step = up(width, L);
    const float* u = conv.u + o * kPositions * C;
    for (int64_t p = 0; p < kPositions; ++p)
      multiply(count, v + p * v_stride + from * C, C, u + p * C * width, width, m + p * m_stride, step);
    for (int64_t c = 0; c < width; c += L) {
      Vector<float> bias = {};
      Mask channel = {}, exists = {};
      for (int i = 0; i < L; ++i) {
        channel[i] = o + c + i;
        exists[i] = -(channel[i] < conv.outputs);
        if (exists[i]) bias[i] = conv.bias[channel[i]];
      }
      for (int64_t t = 0; t < count; ++t) {
        Vector<float> y[kPixels];
        transform_output<EightPoints, kSide>(m + t * step + c, m_stride, bias, y);
        for (int i = 0; i < kPixels; ++i) {
          Best& to = best[t * kPixels + i];
          const Mask larger = beats(y[i], to.best) & exists;
          to = {to.sum + (exists ? y[i] : Vector<float>{}), larger ? y[i] : to.best, larger ? channel : to.found};
        }
      }
    }
  }

  // One convolution at `count` tiles from place `from` on, into its maps: kSide x kSide pixels a tile, whose first is
  // `inset` pixels above and left of the 7x7's.
  template <int kSide>
  void pool(const SkafWinogradConv& conv, int64_t from, int64_t count, int64_t inset) {
    constexpr int kPixels = kSide * kSide;
    std::fill(best.begin(), best.end(), Best{{}, Vector<float>{} - std::numeric_limits<float>::infinity(), {}});
    const int64_t padded = winograd_padded(conv.outputs);
    for (int64_t o = 0; o < padded; o += kWinogradOutputs)
      add_outputs<kSide>(conv, from, count, o, std::min(kWinogradOutputs, padded - o));
    for (int64_t q = 0; q < count * kPixels; q += L) {
      reduce(&best[q]);
      for (int64_t i = 0; i < std::min<int64_t>(L, count * kPixels - q); ++i) {
        const Tile& tile = tiles[from + (q + i) / kPixels];
        const int64_t y = 2 * tile.row - inset + (q + i) % kPixels / kSide;
        const int64_t x = 2 * tile.column - inset + (q + i) % kSide;
        if (y < 0 || y >= H || x < 0 || x >= W) continue;
        const int64_t pixel = (tile.image * H + y) * W + x;
        conv.sum[pixel] = best[q].sum[i];
        conv.best[pixel] = best[q].best[i];
        conv.found[pixel] = best[q].found[i];
      }
    }
  }

  void run(int64_t block) {
    const int64_t first = block * a.groups, last = std::min(groups, first + a.groups);
    list_tiles(first, last);
    transform(first, last);
    pool<4>(a.five, 0, fives, 1);
    pool<2>(a.seven, only_five, tiles.size() - only_five, 0);
  }
};

void weights(const float* weight, int64_t size, int64_t outputs, int64_t inputs, int64_t first, int64_t last,
             float* u) {
  const auto transform = size == 5 ? transform_weight<EightPoints, 5> : transform_weight<EightPoints, 7>;
  for (int64_t block = first; block < last; ++block) transform(weight, outputs, inputs, block * kWinogradOutputs, u);
}

void blocks(const SkafWinograd& a, int64_t first, int64_t last) {
  Blocks blocks{a};
  for (int64_t block = first; block < last; ++block) blocks.run(block);
}

void combine(const SkafWinograd& a, int64_t first, int64_t last) {
  const int64_t P = a.height * a.width;
  const float total = static_cast<float>(a.five.outputs + a.seven.outputs);
  for (int64_t p = first; p < last; ++p) {
    const float one = a.five.best[p], two = a.seven.best[p];
    const bool later = two > one || (two != two && one == one);
    float* m = a.m + p / P * 2 * P + p % P;
    m[0] = (a.five.sum[p] + a.seven.sum[p]) / total;
    m[P] = later ? two : one;
    a.argmax[p] = later ? static_cast<int32_t>(a.five.outputs) + a.seven.found[p] : a.five.found[p];
  }
}

}  // namespace

extern const SkafWinogradKernels skaf_winograd = {weights, blocks, combine};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
