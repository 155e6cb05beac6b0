// How threads of multiscale_dwconv_tile.cuh store their pixels of a row.
#pragma once

#include "cuda/multiscale_dwconv_tile.cuh"

namespace aminet::multiscale {

// Two values of 16 bits, the first in the lower half.
__device__ __forceinline__ uint32_t packed(float a, float b, __nv_bfloat16) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&both);
}
__device__ __forceinline__ uint32_t packed(float a, float b, __half) {
  const __half2 both = __floats2half2_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// This lane's and its neighbour's (lane ^ 1) values of one of two pixels: of the first in even lanes, of the second in
// odd. `bytes` says which, of both lanes' words.
constexpr int kFirstOfBoth = 0x5410, kSecondOfBoth = 0x3276;
__device__ __forceinline__ uint32_t paired(uint32_t pixels, int bytes) {
  const uint32_t other = __shfl_xor_sync(0xffffffffu, pixels, 1);
#ifdef __CUDACC__
  return __byte_perm(pixels, other, bytes);
#else
  return bytes == kSecondOfBoth ? other >> 16 | (pixels & 0xffff0000u) : (pixels & 0xffffu) | other << 16;
#endif
}

// Where a thread's pixels are in an image of y, from the top down. Of 16 bits, two lanes exchange halves, so that each
// stores two channels of one pixel: half the stores and addresses.
template <typename T, int P>
class Output {
 public:
  __device__ __forceinline__ Output(const Tiling& t, const Place<P>& place, int row) {
    const int odd = pairs(t) && threadIdx.x % 2 != 0;
    bytes_ = unseen(odd ? kSecondOfBoth : kFirstOfBoth);
    const int column = place.first_pixel + place.pixel + odd, channel = place.channel - odd;
    at_ = unsigned(row * t.row() + column * t.channels + channel) * unsigned(sizeof(T));
#pragma unroll
    for (int p = 0; p < P; ++p) live_[p] = channel < t.channels && column + p < t.width;
  }

  // P values to a row `above` the one that this points at; all threads come along.
  __device__ __forceinline__ void put(const Tiling& t, T* image, int above, const float (&y)[P]) const {
    T* const to = image - above * t.row();
    const unsigned pixel = unsigned(t.channels) * unsigned(sizeof(T));
    if constexpr (sizeof(T) == 2) {
      if (pairs(t)) {
#pragma unroll
        for (int p = 0; p < P; p += 2) {
          const uint32_t value = paired(packed(y[p], y[p + 1], T{}), bytes_);
          if (live_[p]) *reinterpret_cast<uint32_t*>(moved(to, at_ + p * pixel)) = value;
        }
        return;
      }
    }
#pragma unroll
    for (int p = 0; p < P; ++p)
      if (live_[p]) *moved(to, at_ + p * pixel) = narrow<T>(y[p]);
  }

  __device__ __forceinline__ void next_row(const Tiling& t) { at_ += unsigned(t.row()) * unsigned(sizeof(T)); }

 private:
  __device__ __forceinline__ static bool pairs(const Tiling& t) { return sizeof(T) == 2 && t.vectors; }

  unsigned at_;
  int bytes_;
  bool live_[P];
};

}  // namespace aminet::multiscale
