// Rows that RDFE's front keeps in cache: rings of the last few rows of y and of f_k, for one block of channels.
#pragma once

#include "cpu/rdfe_front.h"
#include "depthwise.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Zeroed memory whose pieces begin at cache lines.
template <typename Acc>
struct Scratch {
  static constexpr int64_t kLine = 64 / sizeof(Acc);
  std::vector<Acc> memory;
  Acc* next;

  static int64_t rounded(int64_t count) { return (count + kLine - 1) / kLine * kLine; }
  explicit Scratch(int64_t count) : memory(count + kLine) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory.data());
    next = memory.data() + (64 - address % 64) % 64 / sizeof(Acc);
  }
  Acc* take(int64_t count) {
    Acc* piece = next;
    next += rounded(count);
    return piece;
  }
};

// The last rows of an image, [pixel][channel of the block], with `border` pixels of zeros on either side.
template <typename Acc>
struct Ring {
  int64_t rows, border, pitch, block, height;
  Acc* data;
  std::vector<const Acc*> met;

  static int64_t count(int64_t rows, int64_t border, int64_t width, int64_t block) {
    return rows * Scratch<Acc>::rounded((width + 2 * border) * block);
  }
  Ring(Scratch<Acc>& scratch, int64_t rows, int64_t border, int64_t width, int64_t block, int64_t height)
      : rows(rows), border(border), pitch(count(1, border, width, block)), block(block), height(height),
        data(scratch.take(count(rows, border, width, block))), met(2 * border + 1) {}

  // The first pixel inside.
  Acc* inside(int64_t y) const { return data + y % rows * pitch + border * block; }
  // The rows that a kernel of 2 * reach + 1 meets around row y, null outside the image.
  const Acc* const* window(int64_t y, int64_t reach) {
    for (int64_t i = 0; i <= 2 * reach; ++i) {
      const int64_t at = y - reach + i;
      met[i] = at < 0 || at >= height ? nullptr : inside(at) - reach * block;
    }
    return met.data();
  }
};

// f_k around a row that moves down, from y [row][pixel][channel] of one image.
template <typename Acc>
struct Features {
  const RdfeShape& s;
  const Acc* y;
  const Acc *weight, *bias;  // [branch][tap][channel of the block], [branch][channel of the block]
  int64_t channel, channels;  // the block's first and its number
  Ring<Acc> y_rows;
  std::vector<Ring<Acc>> f_rows;
  int64_t next_y;
  std::vector<int64_t> next_f;

  // Elements of the rings of all branches.
  static int64_t branch_count(const RdfeShape& s) {
    int64_t sum = 0;
    for (int64_t k : s.kernels) sum += Ring<Acc>::count(k, k / 2, s.width, s.block());
    return sum;
  }
  static int64_t count(const RdfeShape& s) {
    return Ring<Acc>::count(4 * s.border() + 1, s.border(), s.width, s.block()) + branch_count(s);
  }

  Features(const RdfeShape& s, Scratch<Acc>& scratch)
      : s(s), y(nullptr), y_rows(scratch, 4 * s.border() + 1, s.border(), s.width, s.block(), s.height),
        next_f(s.kernels.size()) {
    for (int64_t k : s.kernels) f_rows.emplace_back(scratch, k, k / 2, s.width, s.block(), s.height);
  }

  // Before a strip whose first row is `row`.
  void start(const RdfeParameters& p, const Acc* image, int64_t block, int64_t row) {
    y = image;
    weight = static_cast<const Acc*>(p.weight1) + block * s.taps() * s.block();
    bias = static_cast<const Acc*>(p.bias1) + block * s.branches() * s.block();
    channel = block * s.block();
    channels = std::min(s.block(), s.channels - channel);
    next_y = std::max<int64_t>(0, row - 2 * s.border());
    for (int64_t k = 0; k < s.branches(); ++k) next_f[k] = std::max<int64_t>(0, row - s.kernels[k] / 2);
  }

  void read_until(int64_t last) {
    for (; next_y <= std::min(last, s.height - 1); ++next_y) {
      const Acc* from = y + next_y * s.width * s.channels + channel;
      Acc* to = y_rows.inside(next_y);
      if (channels == s.channels && channels == s.block()) {
        std::copy_n(from, s.width * channels, to);
        continue;
      }
      for (int64_t x = 0; x < s.width; ++x, from += s.channels, to += s.block()) {
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) to[c] = from[c];
        for (int64_t c = channels; c < s.block(); ++c) to[c] = 0;
      }
    }
  }

  // f_k of the rows that a second convolution meets around `row`, and y of those that they need.
  void advance(int64_t row) {
    const Acc *w = weight, *b = bias;
    for (int64_t k = 0; k < s.branches(); ++k) {
      const int64_t size = s.kernels[k], reach = size / 2;
      for (; next_f[k] <= std::min(row + reach, s.height - 1); ++next_f[k]) {
        read_until(next_f[k] + reach);
        const Acc* const* window = y_rows.window(next_f[k], reach);
        depthwise_row<Acc, false>(size, window, w, b, s.width, s.block(), f_rows[k].inside(next_f[k]), s.block());
      }
      w += size * size * s.block();
      b += s.block();
    }
  }
};

// The weights of one block, [branch][tap][channel of the block], times `scale` and by half a turn if asked.
template <typename Acc>
void scaled_weights(const RdfeShape& s, const Acc* weight, const Acc* scale, bool turned, Acc* to) {
  for (int64_t size : s.kernels) {
    const int64_t taps = size * size, C = s.block();
    for (int64_t tap = 0; tap < taps; ++tap) {
      const Acc* from = weight + (turned ? taps - 1 - tap : tap) * C;
      for (int64_t c = 0; c < C; ++c) to[tap * C + c] = scale != nullptr ? from[c] * scale[c] : from[c];
    }
    weight += taps * C;
    to += taps * C;
  }
}

// a [channel] of one image for a block, its padding zero.
template <typename Acc>
void block_of(const RdfeShape& s, const Acc* a, int64_t block, Acc* to) {
  const int64_t first = block * s.block(), count = std::min(s.block(), s.channels - first);
  std::copy_n(a + first, count, to);
  std::fill(to + count, to + s.block(), Acc(0));
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
