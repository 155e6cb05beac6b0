// Tiles of pixels for channel_attention: how they come into shared memory, and the 3x3 on them.
//
// A tile is 16 pixels across and 8 down: a row of it is what a product on tensor cores takes, and eight warps take eight
// rows. With its halo of one it is [10][18][channels]. The 3x3 is walked down: a thread has one column and two channels
// (18 weights in registers), loads left, middle and right of a row once and adds them to the three rows of the output
// that they belong to, so that an element costs three loads from shared memory instead of nine.
#pragma once

#include "cuda/async.h"
#include "cuda/device.h"

namespace aminet::channel_attention {

constexpr int kWide = 16, kHigh = 8, kPixels = kWide * kHigh;
constexpr int kThreads = 256;
// Threads that walk: a multiple of what 12, 16, 24 and 32 columns of channels need for a thread to keep its channels.
constexpr int kWalkers = 192;

// A parameter, which is of the data's type or float: no launch to convert it.
template <typename T>
struct Parameter {
  const void* data;
  bool single;
  __device__ __forceinline__ float at(int64_t i) const {
    return single ? static_cast<const float*>(data)[i] : widen(static_cast<const T*>(data)[i]);
  }
  Parameter from(int64_t i) const { return {static_cast<const char*>(data) + i * (single ? 4 : int64_t(sizeof(T))), single}; }
};

// How channels are cut: K of the input and M of the output at a time. VECTORS: all counts and strides of channels are
// multiples of 8, and so are addresses of 16 bytes; otherwise elements are moved one by one, and K and M may stick out.
template <typename Data, int K, int M, bool VECTORS>
struct Cut {
  using T = Data;
  static constexpr int kIn = K, kOut = M;
  static constexpr bool kVectors = VECTORS;
  static constexpr int kEach = VECTORS ? 2 : 1;  // channels of a walking thread
  static constexpr int kInPadded = ceil_div(K, 16) * 16;
  static constexpr int kPad = 16 / int(sizeof(T));  // a row starts at another bank than the one before
  static constexpr int kInPitch = kInPadded + kPad, kOutPitch = ceil_div(M, 16) * 16 + kPad;
};

struct Place {  // of a tile
  int64_t image;
  int y, x;
};

struct Size {
  int height, width;
  __host__ __device__ int across() const { return ceil_div(width, kWide); }
  __host__ __device__ int tiles() const { return across() * ceil_div(height, kHigh); }  // of an image
  __host__ __device__ int64_t pixels() const { return int64_t(height) * width; }
  __device__ __forceinline__ Place place(int64_t tile) const {
    const int of_image = int(tile % tiles());
    return {tile / tiles(), of_image / across() * kHigh, of_image % across() * kWide};
  }
};

// to[pixel * pitch + channel] = the tile with HALO pixels around it, nought outside the image and beyond `channels`.
// `from` is the image's first pixel at the first channel, [H * W][stride]. Vectors come by copy_async: wait for them.
template <typename T, int K, int HALO, bool VECTORS>
__device__ __forceinline__ void bring(T* to, int pitch, const T* from, int stride, int channels, Size size, Place at) {
  constexpr int across = kWide + 2 * HALO, pixels = across * (kHigh + 2 * HALO);
  constexpr int each = VECTORS ? 16 / int(sizeof(T)) : 1, pieces = K / each;
#pragma unroll 1  // nothing waits in it; addresses of several rounds would take registers
  for (int i = threadIdx.x; i < pixels * pieces; i += kThreads) {
    const int channel = i % pieces * each, pixel = i / pieces;
    const int y = at.y + pixel / across - HALO, x = at.x + pixel % across - HALO;
    const bool inside = y >= 0 && y < size.height && x >= 0 && x < size.width && (VECTORS || channel < channels);
    const T* source = inside ? from + (int64_t(y) * size.width + x) * stride + channel : from;
    if constexpr (VECTORS)
      copy_async<16>(to + pixel * pitch + channel, source, inside);
    else
      to[pixel * pitch + channel] = inside ? *source : narrow<T>(0.f);
  }
}

template <int V>
struct Weights {
  float of[9][V];
};

// Of `V` channels from `channel` on; those not below `channels` have noughts. flipped: of the 3x3's transpose.
template <int V, typename T>
__device__ __forceinline__ Weights<V> weights(Parameter<T> taps, int channel, int channels, bool flipped) {
  Weights<V> w;
#pragma unroll
  for (int tap = 0; tap < 9; ++tap)
#pragma unroll
    for (int v = 0; v < V; ++v)
      w.of[tap][v] = channel + v < channels ? taps.at(int64_t(channel + v) * 9 + (flipped ? 8 - tap : tap)) : 0.f;
  return w;
}

template <int V, typename T>
__device__ __forceinline__ void widened(float (&to)[V], const T* from) {
  const Vector<T, V> values = load<V>(from);
#pragma unroll
  for (int v = 0; v < V; ++v) to[v] = widen(values[v]);
}

// each(step, left, middle, right, value): of every row, from the one above the tile on, its three pixels; from step 2
// on, value is the 3x3 at row step - 2. `from` is the tile's first pixel with halo at the thread's column and channels.
template <int V, int PITCH, typename T, typename Each>
__device__ __forceinline__ void walk(const T* from, const Weights<V>& w, Each&& each) {
  float done[V] = {}, coming[V] = {};
#pragma unroll 2  // all of it would load ahead, and take the registers of a block
  for (int step = 0; step < kHigh + 2; ++step) {
    float left[V], middle[V], right[V], value[V];
    const T* row = from + step * (kWide + 2) * PITCH;
    widened<V>(left, row);
    widened<V>(middle, row + PITCH);
    widened<V>(right, row + 2 * PITCH);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      value[v] = done[v] + left[v] * w.of[6][v] + middle[v] * w.of[7][v] + right[v] * w.of[8][v];
      done[v] = coming[v] + left[v] * w.of[3][v] + middle[v] * w.of[4][v] + right[v] * w.of[5][v];
      coming[v] = left[v] * w.of[0][v] + middle[v] * w.of[1][v] + right[v] * w.of[2][v];
    }
    each(step, left, middle, right, value);
  }
}

// The value rounded to T; nought where `ours` is false.
template <typename T, int V>
__device__ __forceinline__ Vector<T, V> rounded(const float (&value)[V], bool ours) {
  Vector<T, V> out;
#pragma unroll
  for (int v = 0; v < V; ++v) out[v] = narrow<T>(ours ? value[v] : 0.f);
  return out;
}

}  // namespace aminet::channel_attention
