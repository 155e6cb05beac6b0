// What kernels are written with, so that one source compiles with nvcc and, for tests, with g++ (tests/harness/cuda).
//
//   __global__ void k(...) { AMINET_SHARED(float, tile, [8][33]);  AMINET_DYNAMIC_SHARED(float, all);  ... }
//   AMINET_LAUNCH((k<7>), grid, block, dynamic_bytes, stream, arguments...);
//
// Everything of the tensor cores and of asynchronous copies is in mma.h and async.h, which have a twin in plain C++.
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define AMINET_SHARED(T, name, dims) __shared__ __align__(16) T name dims
#define AMINET_DYNAMIC_SHARED(T, name)                                \
  extern __shared__ __align__(16) unsigned char aminet_dynamic_raw[]; \
  T* name = reinterpret_cast<T*>(aminet_dynamic_raw)
// A kernel that wants more than 48 KiB says so; it costs a microsecond, so only those that do pay it.
#define AMINET_LAUNCH(kernel, grid, block, bytes, stream, ...)                                                      \
  do {                                                                                                              \
    if ((bytes) > 48 * 1024) aminet::allow_shared(reinterpret_cast<const void*>(kernel), int(bytes));               \
    kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__);                                                            \
    aminet::checked(cudaGetLastError());                                                                            \
  } while (false)

#else

#include "cuda_on_cpu.h"

#define AMINET_SHARED(T, name, dims) EMULATED_SHARED(T, name, dims)
#define AMINET_DYNAMIC_SHARED(T, name) EMULATED_DYNAMIC_SHARED(T, name)
#define AMINET_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  EMULATED_LAUNCH(kernel, grid, block, bytes, stream, __VA_ARGS__)

#endif

#include <cstdint>
#include <stdexcept>
#include <string>

namespace aminet {

// Throws std::runtime_error with CUDA's own words.
inline void checked(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(std::string("aminet_fast: CUDA: ") + cudaGetErrorString(code));
}

#ifdef __CUDACC__
// Lets a kernel have so much dynamic shared memory on the current device: all that there is, because launches of other
// threads, and those that a graph has captured, may want more of it than this one.
inline void allow_shared(const void* kernel, int bytes) {
  cudaFuncAttributes about;
  checked(cudaFuncGetAttributes(&about, kernel));
  if (about.maxDynamicSharedSizeBytes >= bytes) return;
  int device = 0, most = 0;
  checked(cudaGetDevice(&device));
  checked(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               most - static_cast<int>(about.sharedSizeBytes)));
}
#endif

// threadIdx.x, read anew: what is made of it is made again in each pass of a loop, and does not wait in registers.
__device__ __forceinline__ int thread_anew() {
  int x = static_cast<int>(threadIdx.x);
#ifdef __CUDACC__
  asm volatile("" : "+r"(x));
#endif
  return x;
}

template <typename T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// float, or double where data is double: what sums, statistics and products are.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename T>
using Acc = typename Accumulator<T>::type;

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename T>
__device__ __forceinline__ T narrow(Acc<T> v);
template <>
__device__ __forceinline__ float narrow<float>(float v) { return v; }
template <>
__device__ __forceinline__ double narrow<double>(double v) { return v; }
template <>
__device__ __forceinline__ __half narrow<__half>(float v) { return __float2half_rn(v); }
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

// N values that one load or store moves: of at most 16 bytes, at an address that is a multiple of their size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  static_assert(sizeof(T) * N <= 16 && (N & (N - 1)) == 0);
  T values[N];
  __device__ __forceinline__ T& operator[](int i) { return values[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return values[i]; }
};

template <int N, typename T>
__device__ __forceinline__ Vector<T, N> load(const T* from) {
#ifdef __CUDACC__
  return *reinterpret_cast<const Vector<T, N>*>(from);
#else
  return emulated_load(reinterpret_cast<const Vector<T, N>*>(from));
#endif
}
template <int N, typename T>
__device__ __forceinline__ void store(T* to, const Vector<T, N>& v) {
#ifdef __CUDACC__
  *reinterpret_cast<Vector<T, N>*>(to) = v;
#else
  emulated_store(reinterpret_cast<Vector<T, N>*>(to), v);
#endif
}

// A dense parameter, read as it is, so that no launch converts it: of the data's type, or wide: float.
struct Parameter {
  const void* data;
  bool wide;

  template <typename T>
  __device__ __forceinline__ float at(int64_t i) const {
    return wide ? static_cast<const float*>(data)[i] : widen(static_cast<const T*>(data)[i]);
  }
};

// A Parameter to write.
struct Gradient {
  void* data;
  bool wide;

  template <typename T>
  __device__ __forceinline__ void put(int64_t i, float v) const {
    if (wide)
      static_cast<float*>(data)[i] = v;
    else
      static_cast<T*>(data)[i] = narrow<T>(v);
  }
};

template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) v += __shfl_xor_sync(0xffffffffu, v, distance);
  return v;
}

}  // namespace aminet
