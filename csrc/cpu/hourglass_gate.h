// Between the torch side (hourglass_gate.cpp) and the loops (kernels/hourglass_gate.cpp), which know nothing of torch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/capability.h"
#include "cpu/scalar.h"

namespace aminet {

// Images have their channels innermost. Gradients before the sigmoid are planes with a border of two zeros, so that no
// tap needs a test: [image][height + 4][width + 4].
struct HourglassShape {
  int64_t images, channels, maps, height, width;

  int64_t pixels() const { return height * width; }
  int64_t bordered_row(int64_t image, int64_t row) const { return (image * (height + 4) + row) * (width + 4); }
  // Work is counted in bands of rows, which the forward's convolution overlaps by one row on each side.
  int64_t band_rows() const { return std::clamp<int64_t>(2048 / width, 1, height); }
  int64_t image_bands() const { return (height + band_rows() - 1) / band_rows(); }
};

// values * scale + shift, scale and shift a channel each
struct HourglassNorm {
  const void* values;  // data
  const void* scale;   // Acc
  const void* shift;   // Acc
};

struct HourglassForward {
  HourglassShape shape;
  const void* z;       // data [pixel][channels]
  HourglassNorm x;     // [channels]
  HourglassNorm a, b;  // [maps]
  const void* weight;  // Acc [maps][kHourglassTaps]: the taps of a map, then nothing
  const void* bias;    // Acc [1]
  double slope;
  void* y;     // data, as z
  void* gate;  // Acc [image][pixel]
};

struct HourglassBackwardX {
  HourglassShape shape;
  const void* dy;  // data, as z
  HourglassNorm x;
  const void* gate;
  void* dx;       // data
  void* dlogit;   // Acc, bordered, its border zeroed
  void* partial;  // Acc [band][2 * channels + 1]: sums for scale, shift and bias
};

struct HourglassBackwardMaps {
  HourglassShape shape;
  HourglassNorm a, b;
  const void* weight;  // Acc [9][maps rounded up to kHourglassTaps]
  const void* dlogit;
  double slope;
  void* da;       // data
  void* db;       // data
  void* partial;  // Acc [band][13][maps rounded up]: sums for weight, a's scale and shift, b's scale and shift
};

constexpr int64_t kHourglassTaps = 16, kHourglassSums = 13;
inline int64_t hourglass_padded(int64_t maps) { return (maps + kHourglassTaps - 1) / kHourglassTaps * kHourglassTaps; }

struct HourglassKernels {
  void (*forward)(Scalar, const HourglassForward&, int64_t first_band, int64_t last_band);
  void (*backward_x)(Scalar, const HourglassBackwardX&, int64_t first_band, int64_t last_band);
  void (*backward_maps)(Scalar, const HourglassBackwardMaps&, int64_t first_band, int64_t last_band);
};

#define AMINET_DECLARE(capability) namespace capability { extern const HourglassKernels hourglass_gate; }
AMINET_FOR_EACH_CAPABILITY(AMINET_DECLARE)
#undef AMINET_DECLARE

}  // namespace aminet
