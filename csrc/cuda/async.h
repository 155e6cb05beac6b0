// Copies from global to shared memory that do not wait (cp.async, sm_80 and newer), and waiting for them.
//
//   copy_async<16>(to, from, inside);   // 4, 8 or 16 bytes; zeros where inside is false, and `from` is not read
//   commit_async();                     // ends a group of this thread's copies
//   wait_async<1>();                    // until at most one group of this thread's is under way; then __syncthreads()
//
// On the CPU a copy happens when it is waited for, so that a missing wait shows.
#pragma once

#include "cuda/device.h"

namespace aminet {

template <int BYTES>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool inside) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
#ifdef __CUDACC__
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = inside ? BYTES : 0;
  if constexpr (BYTES == 16)  // .cg: past L1, which only whole vectors may
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared), "l"(from), "n"(BYTES), "r"(bytes)
                 : "memory");
#else
  emulated::copy_async(to, from, BYTES, inside);
#endif
}

__device__ __forceinline__ void commit_async() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#else
  emulated::commit_async();
#endif
}

template <int GROUPS>
__device__ __forceinline__ void wait_async() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;\n" ::"n"(GROUPS) : "memory");
#else
  emulated::wait_async(GROUPS);
#endif
}

}  // namespace aminet
