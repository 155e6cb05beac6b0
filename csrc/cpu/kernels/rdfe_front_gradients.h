// What RDFE's front does with the sums of its backward's units: gradients of the parameters and of `a`, the attention
// unit's backward, and what its constant adds to dy.
#pragma once

#include "rdfe_front_attention.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Adds up one image's units for one block, in the order of the bands: [everything before the fusion].
template <typename Acc>
void add_bands(const RdfeBackward& b, int64_t image, int64_t block, std::vector<Acc>& sum) {
  const RdfeShape& s = b.shape;
  const RdfePartial at(s);
  std::fill(sum.begin(), sum.end(), Acc(0));
  for (int64_t band = 0; band < s.backward_bands(); ++band) {
    const int64_t unit = (image * s.backward_bands() + band) * s.blocks() + block;
    const Acc* from = static_cast<const Acc*>(b.partial) + unit * at.total;
    for (int64_t i = 0; i < at.fuse; ++i) sum[i] += from[i];
  }
}

// Gradients of the weights, [block][branch][tap][channel of the block] until all images are in.
template <typename Acc>
struct WeightSums {
  std::vector<Acc> weight1, weight2;
  explicit WeightSums(const RdfeShape& s) : weight1(s.padded() * s.taps()), weight2(s.padded() * s.taps()) {}

  // To torch's [channel][1][kernel][kernel] of each branch.
  static void write(const RdfeShape& s, const std::vector<Acc>& from, const std::vector<void*>& to) {
    const Acc* sum = from.data();
    for (int64_t block = 0; block < s.blocks(); ++block)
      for (int64_t k = 0; k < s.branches(); ++k) {
        const int64_t taps = s.kernels[k] * s.kernels[k], first = block * s.block();
        const int64_t count = std::min(s.block(), s.channels - first);
        Acc* weight = static_cast<Acc*>(to[k]) + first * taps;
        for (int64_t c = 0; c < count; ++c)
          for (int64_t tap = 0; tap < taps; ++tap) weight[c * taps + tap] = sum[tap * s.block() + c];
        sum += taps * s.block();
      }
  }
};

// da of one image and block from R, and the second convolutions' gradients.
template <typename Acc>
void second_gradients(const RdfeBackward& b, int64_t block, const Acc* a, const Acc* R, Acc* da,
                      WeightSums<Acc>& all) {
  const RdfeShape& s = b.shape;
  const int64_t first = block * s.block(), count = std::min(s.block(), s.channels - first);
  const Acc* weight = static_cast<const Acc*>(b.parameters.weight2) + block * s.taps() * s.block();
  Acc* sum = all.weight2.data() + block * s.taps() * s.block();
  for (int64_t tap = 0; tap < s.taps(); ++tap, weight += s.block(), R += s.block(), sum += s.block())
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) {
      da[first + c] += weight[c] * R[c];
      sum[c] += a[first + c] * R[c];
    }
}

// The first convolutions' gradients of one image and block, and fuse_bias's.
template <typename Acc>
void first_gradients(const RdfeBackward& b, int64_t block, const Acc* sums, const Acc* constant, const Acc* sum,
                     WeightSums<Acc>& all) {
  const RdfeShape& s = b.shape;
  const RdfePartial at(s);
  const int64_t C = s.channels, first = block * s.block(), count = std::min(s.block(), C - first);
  const Acc* raw = sum + at.weight1;
  Acc* weight = all.weight1.data() + block * s.taps() * s.block();
  for (int64_t k = 0; k < s.branches(); ++k) {
    const int64_t size = s.kernels[k], taps = size * size, margin = s.border() - size / 2;
    Acc* bias = static_cast<Acc*>(b.dbias1[k]) + first;
    const Acc* part = constant + k * C + first;
    for (int64_t tap = 0; tap < taps; ++tap, raw += s.block(), weight += s.block()) {
      const Acc* met = sums + ((tap / size + margin) * s.size() + tap % size + margin) * C + first;
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) weight[c] += raw[c] + part[c] * met[c];
    }
    for (int64_t c = 0; c < count; ++c)
      bias[c] += sum[at.f + k * s.block() + c] + part[c] * static_cast<Acc>(s.pixels());
  }
  for (int64_t c = 0; c < count; ++c) static_cast<Acc*>(b.dfuse_bias)[first + c] += sum[at.z + c];
}

// dbias2 = fuse^T sum dz, and sum dz is fuse_bias's gradient.
template <typename Acc>
void second_biases(const RdfeBackward& b) {
  const RdfeShape& s = b.shape;
  const Acc *fuse = static_cast<const Acc*>(b.parameters.fuse), *dz = static_cast<const Acc*>(b.dfuse_bias);
  for (int64_t block = 0; block < s.blocks(); ++block)
    for (int64_t k = 0; k < s.branches(); ++k) {
      const int64_t first = block * s.block(), count = std::min(s.block(), s.channels - first);
      Acc* to = static_cast<Acc*>(b.dbias2[k]) + first;
      for (int64_t o = 0; o < s.channels; ++o, fuse += s.block())
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) to[c] += dz[o] * fuse[c];
    }
}

template <typename Acc>
void attend_images(const RdfeBackward& b) {
  const RdfeShape& s = b.shape;
  const int64_t C = s.channels;
  const RdfePartial at(s);
  std::vector<std::vector<Acc>> sum(s.blocks(), std::vector<Acc>(at.fuse));
  std::vector<Acc> da(C);
  WeightSums<Acc> all(s);
  for (int64_t image = 0; image < s.images; ++image) {
    const Acc* a = static_cast<const Acc*>(b.a) + image * C;
    const Acc* sums = static_cast<const Acc*>(b.sums) + image * s.size() * s.size() * C;
    Acc* constant = static_cast<Acc*>(b.constant) + image * s.branches() * C;
    std::fill(da.begin(), da.end(), Acc(0));
    for (int64_t block = 0; block < s.blocks(); ++block) {
      add_bands(b, image, block, sum[block]);
      second_gradients(b, block, a, sum[block].data() + at.weight2, da.data(), all);
    }
    attention_backward(b, sums, a, da.data(), constant);
    for (int64_t block = 0; block < (b.need_parameters ? s.blocks() : 0); ++block)
      first_gradients(b, block, sums, constant, sum[block].data(), all);
  }
  if (!b.need_parameters) return;
  all.write(s, all.weight1, b.dweight1);
  all.write(s, all.weight2, b.dweight2);
  second_biases<Acc>(b);
}

// Taps that meet a row (or column) of `length` in the class: borders one by one, all between alike.
struct Met {
  int64_t first, last;
  Met(int64_t kind, int64_t reach, int64_t largest, int64_t length) {
    // A row of that kind.
    const int64_t y = length <= 2 * largest + 1 || kind <= largest ? kind : length - (2 * largest + 1 - kind);
    first = std::max<int64_t>(0, y + reach - (length - 1));
    last = std::min(2 * reach, y + reach);
  }
};

int64_t kind_of(int64_t y, int64_t largest, int64_t length) {
  if (length <= 2 * largest + 1 || y < largest) return y;
  return std::max(largest, y + 2 * largest + 1 - length);
}

template <typename Acc>
void spread_images(const RdfeBackward& b, int64_t first, int64_t last) {
  const RdfeShape& s = b.shape;
  const int64_t C = s.channels, size = s.size(), rows = std::min(s.height, size), columns = std::min(s.width, size);
  std::vector<Acc> sum(size * s.block());  // over the taps of each row of a kernel that meet a column
  for (int64_t image = first; image < last; ++image) {
    Acc* to = static_cast<Acc*>(b.spread) + image * size * size * C;
    std::fill_n(to, size * size * C, Acc(0));
    const Acc* weight = static_cast<const Acc*>(b.parameters.weight1);
    for (int64_t block = 0; block < s.blocks(); ++block)
      for (int64_t k = 0; k < s.branches(); ++k) {
        const int64_t channel = block * s.block(), count = std::min(s.block(), C - channel), kernel = s.kernels[k];
        const Acc* constant = static_cast<const Acc*>(b.constant) + (image * s.branches() + k) * C + channel;
        for (int64_t i = 0; i < columns; ++i) {
          const Met across(i, kernel / 2, s.border(), s.width);
          std::fill(sum.begin(), sum.end(), Acc(0));
          for (int64_t ky = 0; ky < kernel; ++ky)
            for (int64_t kx = across.first; kx <= across.last; ++kx)
              for (int64_t c = 0; c < count; ++c)
                sum[ky * s.block() + c] += weight[(ky * kernel + kx) * s.block() + c] * constant[c];
          for (int64_t j = 0; j < rows; ++j) {
            const Met down(j, kernel / 2, s.border(), s.height);
            Acc* value = to + (j * size + i) * C + channel;
            for (int64_t ky = down.first; ky <= down.last; ++ky)
              for (int64_t c = 0; c < count; ++c) value[c] += sum[ky * s.block() + c];
          }
        }
        weight += kernel * kernel * s.block();
      }
  }
}

template <typename Acc>
void add_spread_rows(const RdfeBackward& b, int64_t first, int64_t last) {
  const RdfeShape& s = b.shape;
  const int64_t C = s.channels, size = s.size(), reach = s.border();
  for (int64_t row = first; row < last; ++row) {
    const int64_t image = row / s.height, kind = kind_of(row % s.height, reach, s.height);
    const Acc* spread = static_cast<const Acc*>(b.spread) + (image * size + kind) * size * C;
    Acc* dy = static_cast<Acc*>(b.dy) + row * s.width * C;
    for (int64_t x = 0; x < s.width; ++x, dy += C) {
      const Acc* value = spread + kind_of(x, reach, s.width) * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) dy[c] += value[c];
    }
  }
}

template <typename Acc>
void fuse_outputs(const RdfeBackward& b, int64_t first, int64_t last) {
  const RdfeShape& s = b.shape;
  const RdfePartial at(s);
  const int64_t C = s.channels, units = s.images * s.backward_bands();
  for (int64_t o = first; o < last; ++o)
    for (int64_t unit = 0; unit < units * s.blocks(); ++unit)
      for (int64_t k = 0; k < s.branches(); ++k) {
        const int64_t channel = unit % s.blocks() * s.block(), count = std::min(s.block(), C - channel);
        const Acc* from = static_cast<const Acc*>(b.partial) + unit * at.total + at.fuse + (k * C + o) * s.block();
        Acc* to = static_cast<Acc*>(b.dfuse) + (o * s.branches() + k) * C + channel;
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) to[c] += from[c];
      }
}

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
