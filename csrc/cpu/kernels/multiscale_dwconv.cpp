// Depthwise convolutions of several sizes on one input, or one each. Compiled once per capability (AMINET_CAPABILITY).
//   y_k = DW_k(a * x) + b_k          dx = a * sum_k DW_k^T(dy_k),  da = sum_pixels x * sum_k DW_k^T(dy_k)
// Reads x once and in the backward each dy_k; writes y_k, or dx and one slab of sums for a chunk of rows. A unit goes
// down its rows with the last few rows of x in a ring (in the backward of each dy_k too), as Acc, scaled and between
// border pixels of zeros. A ring fits in L2, so data are read once, whatever the number of branches, and every row of
// all outputs is finished while its inputs are there.
#include "cpu/multiscale_dwconv.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <memory>
#include <type_traits>

#include "depthwise.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

struct Unit {
  int64_t image, slab, channel, channels, row, last_row;
  Unit(const MultiscaleShape& s, int64_t index) {
    slab = index / s.blocks();
    image = slab / s.chunks();
    channel = index % s.blocks() * s.block();
    channels = std::min(s.block(), s.channels - channel);
    const int64_t chunk = slab % s.chunks();
    row = s.height * chunk / s.chunks();
    last_row = s.height * (chunk + 1) / s.chunks();
  }
  // Of a pixel of the image, in the data.
  int64_t element(const MultiscaleShape& s, int64_t y) const {
    return (image * s.height + y) * s.width * s.channels + channel;
  }
};

// The rows that a kernel of `size` rows needs, [size][width + size - 1][channels].
template <typename T, typename Acc>
class Ring {
 public:
  Ring(const MultiscaleShape& shape, const Unit& unit, int64_t size, const void* data, const Acc* scale)
      : s(shape), u(unit), size_(size), scale_(scale), data_(static_cast<const T*>(data)),
        memory_(size * (s.width + size - 1) * u.channels + kAligned), rows_(aligned(memory_)),
        next_(std::max<int64_t>(0, u.row - size / 2)) {}

  // Loads what output row y needs.
  void advance(int64_t y) {
    for (; next_ <= std::min(y + size_ / 2, s.height - 1); ++next_) load_row(next_);
  }

  // The pixel `radius` before the first of row y, which is loaded; null outside the image.
  const Acc* row(int64_t y, int64_t radius) const {
    if (y < 0 || y >= s.height) return nullptr;
    return rows_ + (y % size_ * (s.width + size_ - 1) + size_ / 2 - radius) * u.channels;
  }

 private:
  static constexpr int64_t kAligned = kVectorBytes / sizeof(Acc);

  // Vectors across two lines of cache cost twice.
  static Acc* aligned(std::vector<Acc>& memory) {
    void* at = memory.data();
    size_t room = memory.size() * sizeof(Acc);
    return static_cast<Acc*>(std::align(kVectorBytes, 1, at, room));
  }

  void load_row(int64_t y) {
    const T* from = data_ + u.element(s, y);
    Acc* to = rows_ + (y % size_ * (s.width + size_ - 1) + size_ / 2) * u.channels;
    const int64_t c = u.channels;
    for (int64_t x = 0; x < s.width; ++x, from += s.channels, to += c) {
      if (scale_ == nullptr) {
#pragma omp simd
        for (int64_t i = 0; i < c; ++i) to[i] = static_cast<Acc>(from[i]);
      } else {
#pragma omp simd
        for (int64_t i = 0; i < c; ++i) to[i] = static_cast<Acc>(from[i]) * scale_[i];
      }
    }
  }

  const MultiscaleShape& s;
  const Unit& u;
  int64_t size_;
  const Acc* scale_;
  const T* data_;
  std::vector<Acc> memory_;
  Acc* rows_;
  int64_t next_;
};

template <typename T, typename Acc>
struct Pass {
  const MultiscaleDwconv& a;
  const Unit u;
  const MultiscaleShape& s = a.shape;
  const Acc* scale = a.scale == nullptr ? nullptr : static_cast<const Acc*>(a.scale) + u.image * s.channels + u.channel;
  std::vector<const Acc*> pointers = {};
  std::vector<Acc> row = std::vector<Acc>(s.width * u.channels);  // of results, where they are not data yet

  // The rings of x: one for all branches, of the largest kernel, or one each.
  std::vector<Ring<T, Acc>> rings_of_x() const {
    std::vector<Ring<T, Acc>> rings;
    int64_t largest = 0;
    for (const MultiscaleBranch& branch : a.branches) largest = std::max(largest, branch.kernel);
    if (a.shared) rings.emplace_back(s, u, largest, a.branches[0].x, scale);
    for (size_t k = 0; !a.shared && k < a.branches.size(); ++k)
      rings.emplace_back(s, u, a.branches[k].kernel, a.branches[k].x, scale);
    return rings;
  }

  // The rows of the ring under the kernel of output row y.
  const Acc* const* window(const Ring<T, Acc>& ring, int64_t kernel, int64_t y) {
    pointers.resize(kernel);
    for (int64_t ky = 0; ky < kernel; ++ky) pointers[ky] = ring.row(y + ky - kernel / 2, kernel / 2);
    return pointers.data();
  }

  const Acc* weight(const MultiscaleBranch& branch) const {
    return static_cast<const Acc*>(branch.weight) + u.channel * branch.taps();
  }

  void forward() {
    std::vector<Ring<T, Acc>> rings = rings_of_x();
    for (int64_t y = u.row; y < u.last_row; ++y) {
      for (Ring<T, Acc>& ring : rings) ring.advance(y);
      for (size_t k = 0; k < a.branches.size(); ++k) {
        const MultiscaleBranch& branch = a.branches[k];
        const Acc* bias = branch.bias == nullptr ? nullptr : static_cast<const Acc*>(branch.bias) + u.channel;
        const Acc* const* from = window(rings[a.shared ? 0 : k], branch.kernel, y);
        T* to = static_cast<T*>(branch.y) + u.element(s, y);
        if constexpr (std::is_same_v<T, Acc>) {
          depthwise_row<Acc, false>(branch.kernel, from, weight(branch), bias, s.width, u.channels, to, s.channels);
        } else {
          depthwise_row<Acc, false>(branch.kernel, from, weight(branch), bias, s.width, u.channels, row.data(),
                                    u.channels);
          for (int64_t x = 0; x < s.width; ++x)
#pragma omp simd
            for (int64_t c = 0; c < u.channels; ++c) to[x * s.channels + c] = narrowed<T>(row[x * u.channels + c]);
        }
      }
    }
  }

  // sums[channel] += a row of dy
  void add_row(const Acc* dy, Acc* sums) const {
    const int64_t C = u.channels;
    int64_t x = 0;
    for (; x + 4 <= s.width; x += 4, dy += 4 * C)
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) sums[c] += (dy[c] + dy[C + c]) + (dy[2 * C + c] + dy[3 * C + c]);
    for (; x < s.width; ++x, dy += C)
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) sums[c] += dy[c];
  }

  // From `row`, the gradient of a row of a * x, to those of x and of a.
  void finish(const MultiscaleBranch& branch, int64_t y, Acc* dscale) const {
    const T* x = static_cast<const T*>(branch.x) + u.element(s, y);
    T* dx = branch.dx == nullptr ? nullptr : static_cast<T*>(branch.dx) + u.element(s, y);
    const Acc* g = row.data();
    const int64_t C = u.channels;
    for (int64_t i = 0; i < s.width; ++i, g += C, x += s.channels) {
      if (a.need_scale)
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) dscale[c] += static_cast<Acc>(x[c]) * g[c];
      if (dx == nullptr) continue;
      T* to = dx + i * s.channels;
      if (scale == nullptr)
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) to[c] = narrowed<T>(g[c]);
      else
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) to[c] = narrowed<T>(g[c] * scale[c]);
    }
  }

  // The gradient of the input(s) at row y: summed over the branches if these share one.
  void input_row(const std::vector<Ring<T, Acc>>& rings, int64_t y, Acc* dscale) {
    for (size_t k = 0; k < a.branches.size(); ++k) {
      const MultiscaleBranch &branch = a.branches[k], &target = a.branches[a.shared ? 0 : k];
      const bool direct = std::is_same_v<T, Acc> && scale == nullptr, add = a.shared && k > 0;
      Acc* to = direct ? reinterpret_cast<Acc*>(static_cast<T*>(target.dx) + u.element(s, y)) : row.data();
      const int64_t stride = direct ? s.channels : u.channels;
      const Acc* const* from = window(rings[k], branch.kernel, y);
      if (add)
        depthwise_row<Acc, true>(branch.kernel, from, weight(branch), nullptr, s.width, u.channels, to, stride);
      else
        depthwise_row<Acc, false>(branch.kernel, from, weight(branch), nullptr, s.width, u.channels, to, stride);
      if (!direct && (!a.shared || k + 1 == a.branches.size())) finish(target, y, dscale);
    }
  }

  void backward() {
    const bool need_input = a.branches[0].dx != nullptr || a.need_scale;
    std::vector<Ring<T, Acc>> rings, gradients;
    if (a.need_weights) rings = rings_of_x();
    for (const MultiscaleBranch& branch : a.branches)
      gradients.emplace_back(s, u, branch.kernel, branch.dy, static_cast<const Acc*>(nullptr));
    Acc* slab = a.partial == nullptr ? nullptr : static_cast<Acc*>(a.partial) + u.slab * a.slab;
    Acc* dscale = a.need_scale ? slab + a.scale_sums + u.channel : nullptr;
    if (a.need_scale) std::fill_n(dscale, u.channels, Acc(0));
    const auto dweight = [&](const MultiscaleBranch& b) { return slab + b.sums + u.channel * b.taps(); };
    const auto dbias = [&](const MultiscaleBranch& b) { return slab + b.sums + s.channels * b.taps() + u.channel; };
    for (size_t k = 0; a.need_weights && k < a.branches.size(); ++k) {
      std::fill_n(dweight(a.branches[k]), u.channels * a.branches[k].taps(), Acc(0));
      std::fill_n(dbias(a.branches[k]), u.channels, Acc(0));
    }
    for (int64_t y = u.row; y < u.last_row; ++y) {
      for (Ring<T, Acc>& ring : rings) ring.advance(y);
      for (Ring<T, Acc>& ring : gradients) ring.advance(y);
      if (need_input) input_row(gradients, y, dscale);
      for (size_t k = 0; a.need_weights && k < a.branches.size(); ++k) {
        const MultiscaleBranch& branch = a.branches[k];
        const Acc* dy = gradients[k].row(y, 0);
        const Acc* const* from = window(rings[a.shared ? 0 : k], branch.kernel, y);
        depthwise_weight_row<Acc>(branch.kernel, from, dy, s.width, u.channels, dweight(branch));
        add_row(dy, dbias(branch));
      }
    }
  }
};

template <typename T, typename Acc>
void forward_units(const MultiscaleDwconv& a, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) Pass<T, Acc>{a, Unit(a.shape, i)}.forward();
}

template <typename T, typename Acc>
void backward_units(const MultiscaleDwconv& a, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) Pass<T, Acc>{a, Unit(a.shape, i)}.backward();
}

// Calls run<T, Acc>(arguments, first, last) for the scalar's types.
#define AMINET_FOR_SCALAR(run)                                                   \
  switch (scalar) {                                                              \
    case Scalar::f32: return run<float, float>(a, first, last);                  \
    case Scalar::f64: return run<double, double>(a, first, last);                \
    case Scalar::bf16: return run<c10::BFloat16, float>(a, first, last);         \
    case Scalar::f16: return run<c10::Half, float>(a, first, last);              \
  }

void forward(Scalar scalar, const MultiscaleDwconv& a, int64_t first, int64_t last) {
  AMINET_FOR_SCALAR(forward_units)
}

void backward(Scalar scalar, const MultiscaleDwconv& a, int64_t first, int64_t last) {
  AMINET_FOR_SCALAR(backward_units)
}

}  // namespace

extern const MultiscaleKernels multiscale_dwconv = {forward, backward};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
