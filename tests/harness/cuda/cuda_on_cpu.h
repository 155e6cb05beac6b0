// CUDA kernels on the CPU, for tests: csrc/cuda/device.h includes this where the compiler is not nvcc.
//
// The words of the language and the names of its functions, as far as the kernels use them; what they do is in the
// headers included. A raw __shared__ or <<< >>> does not compile: kernels use device.h's macros.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

// float4, dim3, __half, __nv_bfloat16: the toolkit's headers have code for the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __align__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

#ifndef __DRIVER_TYPES_H__
typedef int cudaError_t;
typedef struct CUstream_st* cudaStream_t;
enum { cudaSuccess = 0 };
#endif
inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }

#include "collectives.h"
#include "copies.h"
#include "launch.h"
#include "tensor_cores.h"

#define EMULATED_TEXT_OF(x) #x
#define EMULATED_TEXT(x) EMULATED_TEXT_OF(x)
#define EMULATED_HERE __FILE__ ":" EMULATED_TEXT(__LINE__)

#define EMULATED_SHARED(T, name, dims)  \
  static const char name##_key = 0;     \
  using name##_type = T dims;           \
  name##_type& name = *static_cast<name##_type*>( \
      emulated::shared_array(&name##_key, sizeof(name##_type), alignof(name##_type)))
#define EMULATED_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emulated::block->shared)
#define EMULATED_LAUNCH(kernel, grid, size, bytes, stream, ...) \
  ((void)(stream), EMULATED_BEGIN(kernel, grid, size, bytes),   \
   emulated::launch(grid, size, bytes, [&](auto... arguments) { kernel(arguments...); } __VA_OPT__(, ) __VA_ARGS__), \
   EMULATED_END())

#define threadIdx (emulated::fiber->index)
#define blockIdx (emulated::block->index)
#define blockDim (emulated::block->size)
#define gridDim (emulated::block->grid)
static constexpr int warpSize = 32;

#define EMULATED_BARRIER(...) \
  (EMULATED_COUNT(kBarrier, nullptr, 0), emulated::block_barrier(EMULATED_HERE __VA_OPT__(, ) __VA_ARGS__))
#define __syncthreads() ((void)EMULATED_BARRIER())
#define __syncthreads_count(vote) (EMULATED_BARRIER(vote).count)
#define __syncthreads_or(vote) (EMULATED_BARRIER(vote).any)
#define __syncthreads_and(vote) (EMULATED_BARRIER(vote).all)
inline unsigned emulated_mask(unsigned mask = 0xffffffffu) { return mask; }
#define __syncwarp(...) emulated::warp_barrier(emulated_mask(__VA_ARGS__), EMULATED_HERE)
#define EMULATED_SHUFFLE(which, mask, ...) \
  (EMULATED_COUNT(kShuffle, nullptr, 0), emulated::which(EMULATED_HERE, mask, __VA_ARGS__))
#define __shfl_sync(mask, ...) EMULATED_SHUFFLE(shfl, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...) EMULATED_SHUFFLE(shfl_xor, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) EMULATED_SHUFFLE(shfl_down, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...) EMULATED_SHUFFLE(shfl_up, mask, __VA_ARGS__)
#define __ballot_sync(mask, vote) emulated::ballot(EMULATED_HERE, mask, vote)
#define __any_sync(mask, vote) (emulated::ballot(EMULATED_HERE, mask, vote) != 0)
#define __all_sync(mask, vote) (emulated::ballot(EMULATED_HERE, mask, vote) == (mask))
#define EMULATED_REDUCE(mask, v, operation) \
  emulated::reduce(EMULATED_HERE, mask, v, [](auto a, auto b) { return operation; })
#define __reduce_add_sync(mask, v) EMULATED_REDUCE(mask, v, a + b)
#define __reduce_max_sync(mask, v) EMULATED_REDUCE(mask, v, a > b ? a : b)
#define __reduce_min_sync(mask, v) EMULATED_REDUCE(mask, v, a < b ? a : b)
#define __threadfence() emulated::fence()
#define __threadfence_block() emulated::fence()

template <typename T>
EMULATED_INLINE T emulated_load(const T* from) {
  EMULATED_COUNT(kLoad, from, sizeof(T));
  EMULATED_UNCOUNTED;
  return *from;
}
template <typename T>
EMULATED_INLINE void emulated_store(T* to, const std::type_identity_t<T>& v) {
  EMULATED_COUNT(kStore, to, sizeof(T));
  EMULATED_UNCOUNTED;
  *to = v;
}
#define __ldg(from) emulated_load(from)
#define __ldcs(from) emulated_load(from)
#define __ldcg(from) emulated_load(from)
#define __stcs(to, v) emulated_store(to, v)
#define __stcg(to, v) emulated_store(to, v)

template <typename T>
EMULATED_INLINE T atomicAdd(T* at, std::type_identity_t<T> v) {
  EMULATED_COUNT(kAtomic, at, sizeof(T));
  return emulated::update(at, [=](T old) { return T(old + v); });
}
template <typename T>
EMULATED_INLINE T atomicMax(T* at, std::type_identity_t<T> v) {
  EMULATED_COUNT(kAtomic, at, sizeof(T));
  return emulated::update(at, [=](T old) { return old > v ? old : v; });
}
template <typename T>
EMULATED_INLINE T atomicMin(T* at, std::type_identity_t<T> v) {
  EMULATED_COUNT(kAtomic, at, sizeof(T));
  return emulated::update(at, [=](T old) { return old < v ? old : v; });
}
template <typename T>
EMULATED_INLINE T atomicExch(T* at, std::type_identity_t<T> v) {
  EMULATED_COUNT(kAtomic, at, sizeof(T));
  return emulated::update(at, [=](T) { return v; });
}
template <typename T>
EMULATED_INLINE T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  EMULATED_COUNT(kAtomic, at, sizeof(T));
  return emulated::update(at, [=](T old) { return old == expected ? v : old; });
}

inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x > 0.f ? x < 1.f ? x : 1.f : 0.f; }  // 0 for NaN
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline int32_t __float_as_int(float x) { return std::bit_cast<int32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int32_t x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
using std::max;
using std::min;
