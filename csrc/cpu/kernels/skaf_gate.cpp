// Two branches weighed by gates and added. Compiled once per capability (AMINET_CAPABILITY).
//   z = conv(m), w = sigmoid(z), y = residual + g * w1 + l * w2
//   dg = dy * w1, dl = dy * w2, dz1 = w1 (1 - w1) sum_c dy * g, dz2 likewise; dm and the parameters' from dz
#include "cpu/skaf_gate.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <vector>

#include "skaf_gate_maps.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Some rows of one image, and where they begin: its gates' and its data's index.
struct Block {
  int64_t image, row, rows, pixels, gate, element;
  Block(const SkafGateShape& s, int64_t index) {
    image = index / s.image_blocks();
    row = index % s.image_blocks() * s.block_rows();
    rows = std::min(s.block_rows(), s.height - row);
    pixels = rows * s.width;
    gate = image * 2 * s.pixels() + row * s.width;
    element = image * s.pixels() * s.channels + row * s.width * (s.channels_last ? s.channels : 1);
  }
};

template <typename T, typename Acc, bool kResidual>
struct Forward {
  const SkafGateForward& a;
  const SkafGateShape& s = a.shape;
  Acc* all_gates = static_cast<Acc*>(a.gates);

  // z: room for two rows.
  void gates(const Block& block, Acc* z) const {
    Acc *z0 = z, *z1 = z + s.wide();
    for (int64_t y = 0; y < block.rows; ++y) {
      const Acc* from = static_cast<const Acc*>(a.maps) + s.bordered_row(block.image, 0, block.row + y);
      convolve_row(s, from, static_cast<const Acc*>(a.weight), static_cast<const Acc*>(a.bias), z0, z1);
      for (int64_t x = 0; x < 2 * s.wide(); x += kLanes<Acc>) store<Acc>(z + x, sigmoid<Acc>(load(z + x)));
      Acc* w = all_gates + block.gate + y * s.width;
      std::copy_n(z0, s.width, w);
      std::copy_n(z1, s.width, w + s.pixels());
    }
  }

  // channels_last: vectors run along a pixel's channels.
  void rows(const Block& block) const {
    const Acc *w1 = all_gates + block.gate, *w2 = w1 + s.pixels();
    const T* g = static_cast<const T*>(a.g) + block.element;
    const T* l = static_cast<const T*>(a.l) + block.element;
    const T* r = kResidual ? static_cast<const T*>(a.residual) + block.element : g;
    T* y = static_cast<T*>(a.y) + block.element;
    const int64_t C = s.channels;
    for (int64_t p = 0; p < block.pixels; ++p, g += C, l += C, r += C, y += C) {
      const Acc first = w1[p], second = w2[p];
      if (C >= kLanes<Acc>) {
        const auto put = [&](int64_t c) {
          const Vector<Acc> sum = load_as<T, Acc>(g + c) * first + load_as<T, Acc>(l + c) * second;
          store_as<T, Acc>(y + c, kResidual ? load_as<T, Acc>(r + c) + sum : sum);
        };
        for (int64_t c = 0; c < C - kLanes<Acc>; c += kLanes<Acc>) put(c);
        put(C - kLanes<Acc>);  // may overlap the vector before it, with the same values
        continue;
      }
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        const Acc sum = static_cast<Acc>(g[c]) * first + static_cast<Acc>(l[c]) * second;
        y[c] = narrowed<T>(kResidual ? static_cast<Acc>(r[c]) + sum : sum);
      }
    }
  }

  // NCHW: vectors run along the pixels of the block.
  void planes(const Block& block) const {
    const Acc *w1 = all_gates + block.gate, *w2 = w1 + s.pixels();
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t at = block.element + c * s.pixels();
      const T *g = static_cast<const T*>(a.g) + at, *l = static_cast<const T*>(a.l) + at;
      const T* r = kResidual ? static_cast<const T*>(a.residual) + at : g;
      T* y = static_cast<T*>(a.y) + at;
#pragma omp simd
      for (int64_t p = 0; p < block.pixels; ++p) {
        const Acc sum = static_cast<Acc>(g[p]) * w1[p] + static_cast<Acc>(l[p]) * w2[p];
        y[p] = narrowed<T>(kResidual ? static_cast<Acc>(r[p]) + sum : sum);
      }
    }
  }

  void run(int64_t first, int64_t last) const {
    std::vector<Acc> z(2 * s.wide());
    for (int64_t i = first; i < last; ++i) {
      const Block block(s, i);
      gates(block, z.data());
      s.channels_last ? rows(block) : planes(block);
    }
  }
};

template <typename T, typename Acc, bool kBranches, bool kMaps>
struct Branches {
  const SkafGateBranches& a;
  const SkafGateShape& s = a.shape;

  // sums: room for sum_c dy * g and sum_c dy * l at each pixel of the block.
  void rows(const Block& block, Acc* sums) const {
    const Acc *w1 = static_cast<const Acc*>(a.gates) + block.gate, *w2 = w1 + s.pixels();
    const T* dy = static_cast<const T*>(a.dy) + block.element;
    const T* g = static_cast<const T*>(a.g) + block.element;
    const T* l = static_cast<const T*>(a.l) + block.element;
    T* dg = kBranches ? static_cast<T*>(a.dg) + block.element : nullptr;
    T* dl = kBranches ? static_cast<T*>(a.dl) + block.element : nullptr;
    const int64_t C = s.channels;
    const Vector<Acc> once = met_once<Acc>(C);
    for (int64_t p = 0; p < block.pixels; ++p) {
      const int64_t at = p * C;
      const Acc first = w1[p], second = w2[p];
      if (C >= kLanes<Acc>) {
        Vector<Acc> of_g = {}, of_l = {};
        const auto put = [&](int64_t c, const Vector<Acc>& counted) {
          const Vector<Acc> d = load_as<T, Acc>(dy + c);
          if constexpr (kMaps) {
            of_g += d * counted * load_as<T, Acc>(g + c);
            of_l += d * counted * load_as<T, Acc>(l + c);
          }
          if constexpr (kBranches) {
            store_as<T, Acc>(dg + c, d * first);
            store_as<T, Acc>(dl + c, d * second);
          }
        };
        for (int64_t c = at; c < at + C - kLanes<Acc>; c += kLanes<Acc>) put(c, Vector<Acc>{} + 1);
        put(at + C - kLanes<Acc>, once);
        sums[p] = halved_sum<Acc>(of_g);
        sums[block.pixels + p] = halved_sum<Acc>(of_l);
        continue;
      }
      Acc sum_g = 0, sum_l = 0;
#pragma omp simd reduction(+ : sum_g, sum_l)
      for (int64_t c = 0; c < C; ++c) {
        const Acc d = static_cast<Acc>(dy[at + c]);
        if constexpr (kMaps) {
          sum_g += d * static_cast<Acc>(g[at + c]);
          sum_l += d * static_cast<Acc>(l[at + c]);
        }
        if constexpr (kBranches) {
          dg[at + c] = narrowed<T>(d * first);
          dl[at + c] = narrowed<T>(d * second);
        }
      }
      sums[p] = sum_g;
      sums[block.pixels + p] = sum_l;
    }
  }

  void planes(const Block& block, Acc* sums) const {
    const Acc *w1 = static_cast<const Acc*>(a.gates) + block.gate, *w2 = w1 + s.pixels();
    Acc *sum_g = sums, *sum_l = sums + block.pixels;
    std::fill_n(sums, 2 * block.pixels, Acc(0));
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t at = block.element + c * s.pixels();
      const T* dy = static_cast<const T*>(a.dy) + at;
      const T *g = static_cast<const T*>(a.g) + at, *l = static_cast<const T*>(a.l) + at;
      T* dg = kBranches ? static_cast<T*>(a.dg) + at : nullptr;
      T* dl = kBranches ? static_cast<T*>(a.dl) + at : nullptr;
#pragma omp simd
      for (int64_t p = 0; p < block.pixels; ++p) {
        const Acc d = static_cast<Acc>(dy[p]);
        if constexpr (kMaps) {
          sum_g[p] += d * static_cast<Acc>(g[p]);
          sum_l[p] += d * static_cast<Acc>(l[p]);
        }
        if constexpr (kBranches) {
          dg[p] = narrowed<T>(d * w1[p]);
          dl[p] = narrowed<T>(d * w2[p]);
        }
      }
    }
  }

  // Through the sigmoid, into the bordered planes.
  void before_sigmoid(const Block& block, const Acc* sums) const {
    for (int64_t map = 0; map < 2; ++map, sums += block.pixels) {
      const Acc* w = static_cast<const Acc*>(a.gates) + block.gate + map * s.pixels();
      for (int64_t y = 0; y < block.rows; ++y) {
        const int64_t at = s.bordered_row(block.image, map, block.row + y + s.border()) + s.border();
        Acc* dz = static_cast<Acc*>(a.dz) + at;
        const int64_t row = y * s.width;
#pragma omp simd
        for (int64_t x = 0; x < s.width; ++x) dz[x] = sums[row + x] * w[row + x] * (1 - w[row + x]);
      }
    }
  }

  void run(int64_t first, int64_t last) const {
    std::vector<Acc> sums(2 * s.block_rows() * s.width);
    for (int64_t i = first; i < last; ++i) {
      const Block block(s, i);
      s.channels_last ? rows(block, sums.data()) : planes(block, sums.data());
      if constexpr (kMaps) before_sigmoid(block, sums.data());
    }
  }
};

template <typename T, typename Acc>
void forward_blocks(const SkafGateForward& a, int64_t first, int64_t last) {
  a.residual != nullptr ? Forward<T, Acc, true>{a}.run(first, last) : Forward<T, Acc, false>{a}.run(first, last);
}

template <typename T, typename Acc>
void branch_blocks(const SkafGateBranches& a, int64_t first, int64_t last) {
  if (a.dg == nullptr) return Branches<T, Acc, false, true>{a}.run(first, last);
  a.dz != nullptr ? Branches<T, Acc, true, true>{a}.run(first, last) : Branches<T, Acc, true, false>{a}.run(first, last);
}

template <typename Acc>
void map_chunks(const SkafGateMaps& a, int64_t first, int64_t last) {
  const SkafGateShape& s = a.shape;
  const int64_t rows = s.images * s.height;
  const Acc no_bias[2] = {};
  std::vector<Acc> z(2 * s.wide());
  for (int64_t chunk = first; chunk < last; ++chunk) {
    const int64_t first_row = rows * chunk / a.chunks, last_row = rows * (chunk + 1) / a.chunks;
    for (int64_t row = a.dm != nullptr ? first_row : last_row; row < last_row; ++row) {
      const int64_t image = row / s.height, y = row % s.height;
      const Acc* from = static_cast<const Acc*>(a.dz) + s.bordered_row(image, 0, y);
      convolve_row(s, from, static_cast<const Acc*>(a.flipped), no_bias, z.data(), z.data() + s.wide());
      Acc* dm = static_cast<Acc*>(a.dm) + image * 2 * s.pixels() + y * s.width;
      std::copy_n(z.data(), s.width, dm);
      std::copy_n(z.data() + s.wide(), s.width, dm + s.pixels());
    }
    if (a.partial != nullptr)
      correlate_rows(a, first_row, last_row, static_cast<Acc*>(a.partial) + chunk * (s.filters() + 2));
  }
}

// Calls run<T, Acc>(arguments, first, last) for the scalar's types.
#define AMINET_FOR_SCALAR(run)                                                   \
  switch (scalar) {                                                              \
    case Scalar::f32: return run<float, float>(a, first, last);                  \
    case Scalar::f64: return run<double, double>(a, first, last);                \
    case Scalar::bf16: return run<c10::BFloat16, float>(a, first, last);         \
    case Scalar::f16: return run<c10::Half, float>(a, first, last);              \
  }

void forward(Scalar scalar, const SkafGateForward& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(forward_blocks) }
void branches(Scalar scalar, const SkafGateBranches& a, int64_t first, int64_t last) { AMINET_FOR_SCALAR(branch_blocks) }

void maps(Scalar scalar, const SkafGateMaps& a, int64_t first, int64_t last) {
  scalar == Scalar::f64 ? map_chunks<double>(a, first, last) : map_chunks<float>(a, first, last);
}

}  // namespace

extern const SkafGateKernels skaf_gate = {forward, branches, maps};

}  // namespace AMINET_CAPABILITY
}  // namespace aminet
