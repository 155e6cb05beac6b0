// What an emulated kernel does, counted: put before a source (-include) that is compiled with -fsanitize=thread
// -U__SANITIZE_THREAD__, which has the compiler announce every access to memory. counters.cpp is linked with it.
//
// Of each launch some blocks run (counters.cpp says which), and what their threads load and store, copy, multiply and
// wait for is added up by place in the code.
#pragma once

#include <cstddef>

#include <vector_types.h>

namespace emulated {

enum class Event : unsigned char { kLoad, kStore, kCopy, kMatrices, kProduct, kProductTf32, kBarrier, kShuffle, kAtomic };

// One more at the place that this is called from. bytes: of the thread; at: where in memory, null if nowhere.
__attribute__((noinline)) void count(Event event, const void* at, unsigned bytes);
bool counting(bool on);  // whether accesses are counted from now on; whether they were
void begin_launch(const char* name, const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes);
void end_launch();
bool chosen(size_t number, size_t blocks);

template <typename Kernel>
const void* address_of(Kernel* kernel) {
  return reinterpret_cast<const void*>(kernel);
}

// While it lives accesses are the emulator's own, of which none may let other threads run.
class Uncounted {
 public:
  Uncounted() : before_(counting(false)) {}
  ~Uncounted() { counting(before_); }
  Uncounted(const Uncounted&) = delete;

 private:
  bool before_;
};

}  // namespace emulated

#ifndef EMULATED_COUNTED
#define EMULATED_COUNTED 2  // bytes of the one type that is compiled: csrc/cuda/tensors.h
#endif
#define EMULATED_COUNT(event, at, bytes) emulated::count(emulated::Event::event, at, bytes)
#define EMULATED_UNCOUNTED const emulated::Uncounted uncounted
#define EMULATED_CHOSEN(number, blocks) emulated::chosen(number, blocks)
#define EMULATED_BEGIN(kernel, grid, size, bytes) \
  emulated::begin_launch(#kernel, emulated::address_of(kernel), grid, size, bytes)
#define EMULATED_END() emulated::end_launch()
