// What the torch sides of the operators on CUDA devices (csrc/cuda/*.cu) share. Include it before device.h's users.
//
// The files compile with nvcc into _C_cuda, and with g++ for tests, where tensors are the CPU's and kernels
// run on the emulator of tests/harness/cuda. Schemas are in aminet_fast/ops, under the names of the public operators.
#pragma once

#include <torch/csrc/stable/library.h>

#include "common/tensors.h"
#ifdef __CUDACC__
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#endif

#include "cuda/device.h"

#ifdef __CUDACC__
#define AMINET_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(aminet_fast_cuda, CUDA, m)
#else
#define AMINET_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(aminet_fast_emulated, CPU, m)
#endif

namespace aminet {

// While it lives, launches go to t's GPU and to torch's current stream there, whichever GPU is current outside.
class OnDeviceOf {
 public:
#ifdef __CUDACC__
  explicit OnDeviceOf(const Tensor& t) : guard_(t.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
#else
  explicit OnDeviceOf(const Tensor&) {}
#endif
  OnDeviceOf(const OnDeviceOf&) = delete;
  OnDeviceOf& operator=(const OnDeviceOf&) = delete;

  cudaStream_t stream = nullptr;

#ifdef __CUDACC__
 private:
  torch::stable::accelerator::DeviceGuard guard_;
#endif
};

template <typename T>
struct Type {
  using type = T;
};

// function(Type<T>{}) for x's float, __nv_bfloat16 or __half. Raises for others. Where kernels are only counted it is
// compiled for one type, because that takes long: EMULATED_COUNTED has its bytes, and __half counts as __nv_bfloat16.
template <typename Function>
void by_dtype(const Tensor& x, Function&& function) {
  switch (x.scalar_type()) {
#if !defined(EMULATED_COUNTED) || EMULATED_COUNTED == 4
    case ScalarType::Float: return function(Type<float>{});
#endif
#if !defined(EMULATED_COUNTED) || EMULATED_COUNTED == 2
    case ScalarType::BFloat16: return function(Type<__nv_bfloat16>{});
#endif
#ifndef EMULATED_COUNTED
    case ScalarType::Half: return function(Type<__half>{});
#endif
    default: STD_TORCH_CHECK(false, "aminet_fast: CUDA kernels take float32, bfloat16 and float16");
  }
}

template <typename T>
const T* data_of(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <typename T>
T* room_of(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Shared memory that a block may have on the current device: 99 to 227 KiB.
inline int shared_memory_of_a_block() {
#ifdef __CUDACC__
  int device = 0, bytes = 0;
  checked(cudaGetDevice(&device));
  checked(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
#else
  return static_cast<int>(emulated::shared_limit());
#endif
}

// Of the current device.
inline int multiprocessors_of_device() {
#ifdef __CUDACC__
  int device = 0, count = 0;
  checked(cudaGetDevice(&device));
  checked(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
#else
  return 1;
#endif
}

inline Gradient gradient_of(Tensor& t) { return {t.mutable_data_ptr(), t.scalar_type() == ScalarType::Float}; }

// Room for [N, C, H, W], channels_last, of x's dtype and on its device.
inline Tensor empty_image(const Tensor& x, int64_t n, int64_t c, int64_t h, int64_t w) {
  return torch::stable::empty({n, c, h, w}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

}  // namespace aminet
