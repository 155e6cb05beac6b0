// RDFE's front (Eq. 7-10). Compiled once per capability (AMINET_CAPABILITY).
//   f_k = DW_k(y);  a = AU(mean f);  f'_k = DW2_k(f_k * a);  z = fuse(cat f') + y
// `attend` reads y once, for sums alone: the mean of DW_k(y) is the product of the kernel with sums of y over the
// pixels that each tap meets, the total less some rows and columns at the border. `rows` reads y again and writes z: a
// band of rows at a time, with the rows of f_k that the second convolutions meet in rings of a few hundred KiB, `a`
// multiplied into the second weights, and the fusion a product on a row of f' that is still in cache.
#include "cpu/rdfe_front.h"

#include "rdfe_front_attention.h"
#include "rdfe_front_rows.h"
#include "small_gemm.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// sums[ty][tx] += the row's sum over x that tap tx of any row ty in [first, last] meets; in: [pixel][channel].
// columns: room for one [tx][channel].
template <typename Acc>
void add_row_sums(const RdfeShape& s, const Acc* in, int64_t first, int64_t last, Acc* columns, Acc* sums) {
  const int64_t size = s.size(), C = s.channels, reach = s.border();
  Acc* total = columns + reach * C;
  std::fill_n(total, C, Acc(0));
  for (int64_t x = 0; x < s.width; ++x)
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) total[c] += in[x * C + c];
  for (int64_t tx = 0; tx < size; ++tx) {
    // Tap tx meets pixels tx - reach ... width - 1 + tx - reach.
    const int64_t begin = std::max<int64_t>(0, tx - reach), end = std::min(s.width, s.width + tx - reach);
    if (tx == reach) continue;
    Acc* column = columns + tx * C;
    std::copy_n(total, C, column);
    if (begin >= end) std::fill_n(column, C, Acc(0));
    for (int64_t x = 0; x < s.width && begin < end; ++x)
      if (x < begin || x >= end)
        for (int64_t c = 0; c < C; ++c) column[c] -= in[x * C + c];
      else
        x = std::max(x, end - 1);
  }
  for (int64_t ty = first; ty <= last; ++ty)
#pragma omp simd
    for (int64_t i = 0; i < size * C; ++i) sums[ty * size * C + i] += columns[i];
}

template <typename Acc>
void window_sums(const RdfeShape& s, const Acc* image, Acc* sums) {
  const int64_t size = s.size(), reach = s.border(), row = size * s.channels;
  std::vector<Acc> columns(row), edge(size * row), every(size * row);
  for (int64_t y = 0; y < s.height; ++y) {
    // Tap ty meets row y where y - (ty - reach) is a row of the image.
    const int64_t first = std::max<int64_t>(0, y + reach - (s.height - 1)), last = std::min(size - 1, y + reach);
    const bool inner = first == 0 && last == size - 1;
    add_row_sums(s, image + y * s.width * s.channels, inner ? 0 : first, inner ? 0 : last, columns.data(),
                 inner ? every.data() : edge.data());
  }
  for (int64_t ty = 0; ty < size; ++ty)
    for (int64_t i = 0; i < row; ++i) sums[ty * row + i] = edge[ty * row + i] + every[i];
}

template <typename Acc>
void attend_images(const RdfeForward& f, int64_t first, int64_t last) {
  const RdfeShape& s = f.shape;
  const int64_t sums = s.size() * s.size() * s.channels;
  for (int64_t image = first; image < last; ++image) {
    Acc* to = static_cast<Acc*>(f.sums) + image * sums;
    window_sums(s, static_cast<const Acc*>(f.y) + image * s.pixels() * s.channels, to);
    attention(f, to, static_cast<Acc*>(f.a) + image * s.channels);
  }
}

// Rows of one band after another: f'_k for all blocks, then the fusion.
template <typename Acc>
struct Forward {
  const RdfeForward& f;
  const RdfeShape& s = f.shape;
  const int64_t row = Scratch<Acc>::rounded(s.width * s.block());
  static constexpr auto rounded = Scratch<Acc>::rounded;
  Scratch<Acc> scratch{s.blocks() * (Features<Acc>::count(s) + rounded(s.taps() * s.block()) + s.branches() * row) +
                       rounded(s.block()) + rounded(s.width * s.padded())};
  std::vector<Features<Acc>> features{};
  std::vector<Acc*> weights{};            // a block's second weights times a
  std::vector<Acc*> filtered{};           // f' of a row: [branch][block]
  Acc* scale = scratch.take(s.block());   // a block's a
  Acc* sums = scratch.take(s.width * s.padded());  // the row of the fusion

  explicit Forward(const RdfeForward& f) : f(f) {
    for (int64_t b = 0; b < s.blocks(); ++b) {
      features.emplace_back(s, scratch);
      weights.push_back(scratch.take(s.taps() * s.block()));
    }
    for (int64_t i = 0; i < s.branches() * s.blocks(); ++i) filtered.push_back(scratch.take(row));
  }

  void start(int64_t image, int64_t first_row) {
    const Acc* y = static_cast<const Acc*>(f.y) + image * s.pixels() * s.channels;
    const Acc* a = static_cast<const Acc*>(f.a) + image * s.channels;
    for (int64_t b = 0; b < s.blocks(); ++b) {
      features[b].start(f.parameters, y, b, first_row);
      block_of(s, a, b, scale);
      scaled_weights(s, static_cast<const Acc*>(f.parameters.weight2) + b * s.taps() * s.block(), scale, false,
                     weights[b]);
    }
  }

  void filter(int64_t y) {
    for (int64_t b = 0; b < s.blocks(); ++b) {
      features[b].advance(y);
      const Acc* w = weights[b];
      const Acc* bias = static_cast<const Acc*>(f.parameters.bias2) + b * s.branches() * s.block();
      for (int64_t k = 0; k < s.branches(); ++k, bias += s.block()) {
        const int64_t size = s.kernels[k];
        const Acc* const* window = features[b].f_rows[k].window(y, size / 2);
        depthwise_row<Acc, false>(size, window, w, bias, s.width, s.block(), filtered[k * s.blocks() + b], s.block());
        w += size * size * s.block();
      }
    }
  }

  void fuse(int64_t pixel) const {
    const int64_t C = s.channels, P = s.padded();
    gemm<Acc>({filtered.data(), s.branches() * s.blocks(), s.block(), 1, s.block(),
               static_cast<const Acc*>(f.parameters.fuse), P, sums, P, false},
              s.width, P);
    const Acc *y = static_cast<const Acc*>(f.y) + pixel * C, *bias = static_cast<const Acc*>(f.parameters.fuse_bias);
    Acc* z = static_cast<Acc*>(f.z) + pixel * C;
    for (int64_t x = 0; x < s.width; ++x)
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) z[x * C + c] = sums[x * P + c] + bias[c] + y[x * C + c];
  }
};

template <typename Acc>
void forward_bands(const RdfeForward& f, int64_t first, int64_t last) {
  const RdfeShape& s = f.shape;
  Forward<Acc> run(f);
  const int64_t bands = s.forward_bands();
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t image = unit / bands, band = unit % bands;
    const int64_t first_row = s.height * band / bands, last_row = s.height * (band + 1) / bands;
    run.start(image, first_row);
    for (int64_t y = first_row; y < last_row; ++y) {
      run.filter(y);
      run.fuse(image * s.pixels() + y * s.width);
    }
  }
}

void attend(Scalar scalar, const RdfeForward& f, int64_t first, int64_t last) {
  scalar == Scalar::f64 ? attend_images<double>(f, first, last) : attend_images<float>(f, first, last);
}

void rows(Scalar scalar, const RdfeForward& f, int64_t first, int64_t last) {
  scalar == Scalar::f64 ? forward_bands<double>(f, first, last) : forward_bands<float>(f, first, last);
}

}  // namespace

extern const RdfeFrontKernels rdfe_front = {attend, rows};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
