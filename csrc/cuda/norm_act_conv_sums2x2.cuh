// dy' summed over 2x2, with the slots of what folds: what norm_act_conv's gradients after nearest x2 read.
//
// Reads dy and y, writes one row and column more of the same size. Sums of two columns go down with a thread, which has an
// octet of a column and kSumRows rows: every value is read for two columns, and added once for two rows.
#pragma once

#include "cuda/norm_act_conv_sources.cuh"

namespace aminet::nac {

constexpr int kSumRows = 16;

inline int rows_of_strip(const Kept& kept) { return ceil_div(kept.rows, ceil_div(kept.rows, kSumRows)); }

// Threads: octets, columns, strips of `rows` rows, images; then octets of slots.
template <typename T>
__global__ void __launch_bounds__(256)
    sums2x2_kernel(OutputGradient<T> gradient, Geometry g, int rows, int64_t regular, int64_t all) {
  const Kept& kept = gradient.kept;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= all) return;
  const int octets = gradient.channels / kOctet, octet = static_cast<int>(i % octets);
  const bool slot = i >= regular;
  const int strips = ceil_div(kept.rows, rows), slots = kept.slots * (kept.rows + kept.columns + kept.slots);
  int64_t n = (slot ? i - regular : i) / octets;
  const int number = static_cast<int>(n % (slot ? slots : kept.columns));
  n /= slot ? slots : kept.columns;
  const int strip = slot ? 0 : static_cast<int>(n % strips), image = static_cast<int>(slot ? n : n / strips);
  const Incoming<T> from = gradient.incoming(g, image, octet);
  T* to = gradient.keep + image * kept.pixels_of_image() * gradient.channels + octet * kOctet;
  const auto put = [&](int row, int column, const Octet<T>& values) {
    values.write(to + static_cast<int64_t>(kept.at(row, column)) * gradient.channels);
  };
  if (slot) {  // rows of slots, as long as all columns; then columns of slots beside the regular rows
    const int columns = kept.columns + kept.slots, of_rows = kept.slots * columns;
    const int row = number < of_rows ? kept.rows + number / columns : (number - of_rows) / kept.slots;
    const int column = number < of_rows ? number % columns : kept.columns + (number - of_rows) % kept.slots;
    put(row, column, gradient.summed(from, g, row, column));
    return;
  }
  const int column = number - 1, first = strip * rows, last = min(first + rows, kept.rows);
  float above[kOctet] = {};
#pragma unroll 1
  for (int row = first - 1; row < last; ++row) {  // of dy
    float sum[kOctet] = {};
    if (row >= 0 && row < g.rows.from) {
      Octet<T> of_dy[2], of_y[2] = {};
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (column + c < 0 || column + c >= g.columns.from) continue;
        const int at = (row * g.columns.from + column + c) * gradient.channels;
        of_dy[c].read(from.dy + at);
        if (from.y) of_y[c].read(from.y + at);
      }
#pragma unroll
      for (int c = 0; c < 2; ++c)
        if (column + c >= 0 && column + c < g.columns.from) from.add(sum, of_dy[c], of_y[c]);
    }
    if (row >= first) {
      float both[kOctet];
#pragma unroll
      for (int j = 0; j < kOctet; ++j) both[j] = above[j] + sum[j];
      Octet<T> found;
      found.narrow_from(both);
      put(row, number, found);
    }
#pragma unroll
    for (int j = 0; j < kOctet; ++j) above[j] = sum[j];
  }
}

}  // namespace aminet::nac
