// The threads of an emulated block: fibers of one CPU thread, each with its own stack, of which one runs at a time.
//
// A fiber runs until it waits for others or ends, so nothing really races: mistakes show because some order of threads
// gives other numbers, because shared memory starts as poison (shared_memory.h), or because ThreadSanitizer, which
// takes each fiber for a thread, is told of nothing that orders them but barriers and fences.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <vector_types.h>  // dim3, uint3

#if defined(__SANITIZE_ADDRESS__)
#define EMULATED_UNDER_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#define EMULATED_UNDER_TSAN 1
#include <sanitizer/tsan_interface.h>
#endif
// The emulator's own work, which no sanitizer is to judge. What touches a kernel's memory must not have it.
#define EMULATED_UNSEEN __attribute__((no_sanitize("thread"), no_sanitize("address"), noinline))
// Where counters.h is not there, nothing is counted, and every block of a launch runs.
#ifndef EMULATED_COUNTED
#define EMULATED_COUNT(event, at, bytes) ((void)0)
#define EMULATED_UNCOUNTED ((void)0)
#define EMULATED_CHOSEN(number, blocks) true
#define EMULATED_BEGIN(kernel, grid, size, bytes) ((void)0)
#define EMULATED_END() ((void)0)
#endif
// So that what is counted in there is counted at a place of the kernel.
#define EMULATED_INLINE inline __attribute__((always_inline))

namespace emulated {

// Keeps this stack's pointer in *save and goes on where the other one stopped.
extern "C" void emulated_switch(void** save, void* other);
#if defined(__x86_64__)
asm(R"(
.text
.weak emulated_switch
.hidden emulated_switch
.type emulated_switch,@function
emulated_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
constexpr int kSavedRegisters = 6;
#else
#error "the emulator has a context switch for x86-64 only"
#endif

constexpr unsigned kMostThreads = 1024, kWarp = 32, kMostWarps = kMostThreads / kWarp;
constexpr unsigned kMostMasks = 16;  // different ones that a warp's barriers name
constexpr unsigned kExchanged = 32;  // bytes that a lane gives the others
constexpr unsigned kMostCopies = 256, kMostArrays = 64;
constexpr size_t kSharedRoom = 256 << 10;
#ifdef EMULATED_UNDER_TSAN
constexpr size_t kStack = 32 << 10;  // fresh for every block, so that fewer pages are cleared
constexpr unsigned kMostEnded = 7000;  // ThreadSanitizer knows about 8,000 threads
#else
constexpr size_t kStack = 64 << 10;
#endif
constexpr uint64_t kEndOfStack = 0x656e64206f662073;  // any number that no kernel writes there

enum class State : uint8_t { kReady, kAtBlockBarrier, kAtWarpBarrier, kEnded };

// A copy from global to shared memory that is under way (copies.h).
struct Copy {
  void* to;
  unsigned char data[16];
  unsigned bytes, group;
};

struct Fiber {
  uint3 index;  // threadIdx
  unsigned number, warp, lane;
  State state;
  void* stack_pointer;
  char* stack;
  const char* waits_at;  // file and line
  unsigned mask;         // of the lanes that it waits for
  unsigned met[kMostMasks];  // how often it met the lanes of each mask
  unsigned copies_begin, copies_end, open_group;
  void* fake_stack;  // AddressSanitizer's
  void* thread;      // ThreadSanitizer's
};

// The lanes of one mask of one warp. Two buffers in turn: who has gone on cannot come back before all have read.
struct Lanes {
  unsigned mask;
  alignas(16) unsigned char given[2][kWarp][kExchanged];
};

// Bytes that stand for barriers, for ThreadSanitizer: two in turn too, which what comes after the next one cannot use.
struct Barriers {
  char of_block[2], of_lanes[kMostWarps][kMostMasks][2];
};

struct Votes {
  int count, all, any;
};

struct Block {
  dim3 grid, size;
  uint3 index;  // blockIdx
  unsigned threads, alive;
  Fiber fibers[kMostThreads];
  Fiber* order[kMostThreads];  // in which they run

  unsigned at_barrier, barriers;
  const char* barrier_at;
  Votes voting, voted;
  Barriers* ordered;
  char ended;  // stands for the grid's end
  Lanes lanes[kMostWarps][kMostMasks];
  unsigned masks[kMostWarps];
  Copy copies[kMostThreads][kMostCopies];

  char *room, *shared;  // stacks, and behind them shared memory
  size_t dynamic_bytes, static_bytes, shared_end, shared_limit;
  const void* array_key[kMostArrays];
  size_t array_at[kMostArrays];
  unsigned arrays;

  enum Order { kForward, kReverse, kRandom } in;
  bool may_exit_early;
  uint64_t random_state;
  void (*kernel)(void*);
  void* arguments;

  void *main_pointer, *main_fake_stack, *main_thread;
  const void* main_stack;
  size_t main_stack_size;
#ifdef EMULATED_UNDER_TSAN
  void* ended_threads[kMostEnded + kMostThreads];
  unsigned ended_count;
#endif
};
constexpr size_t kRoom = kMostThreads * kStack + kSharedRoom;

inline thread_local Block* block = nullptr;
inline thread_local Fiber* fiber = nullptr;  // the one that runs

[[noreturn]] EMULATED_UNSEEN inline void fail(const char* what, const char* where = "", const char* other = "") {
  const uint3 none = {0, 0, 0}, at = fiber ? fiber->index : none;
  fprintf(stderr, "emulator: %s %s %s (block %u,%u,%u thread %u,%u,%u)\n", what, where ? where : "", other ? other : "",
          block->index.x, block->index.y, block->index.z, at.x, at.y, at.z);
  fflush(stderr);
  abort();
}

// A number below `bound`, from a sequence that CUDA_EMU_SEED chooses.
EMULATED_UNSEEN inline uint64_t random_below(uint64_t bound) {
  uint64_t& state = block->random_state;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state % bound;
}

// From the fiber that runs to the scheduler, which comes back in its own time, unless this was the end.
EMULATED_UNSEEN inline void leave([[maybe_unused]] bool for_good = false) {
  Fiber* self = fiber;
#ifdef EMULATED_UNDER_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &self->fake_stack, block->main_stack, block->main_stack_size);
#endif
#ifdef EMULATED_UNDER_TSAN
  __tsan_switch_to_fiber(block->main_thread, __tsan_switch_to_fiber_no_sync);
#endif
  emulated_switch(&self->stack_pointer, block->main_pointer);
#ifdef EMULATED_UNDER_ASAN
  __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
}

// Where a fiber begins.
EMULATED_UNSEEN inline void begin() {
#ifdef EMULATED_UNDER_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &block->main_stack, &block->main_stack_size);
#endif
  block->kernel(block->arguments);
#ifdef EMULATED_UNDER_TSAN
  __tsan_release(&block->ended);
#endif
  fiber->state = State::kEnded;
  --block->alive;
  leave(true);
  abort();
}

EMULATED_UNSEEN inline void resume(Fiber* other) {
  fiber = other;
#ifdef EMULATED_UNDER_ASAN
  __sanitizer_start_switch_fiber(&block->main_fake_stack, other->stack, kStack);
#endif
#ifdef EMULATED_UNDER_TSAN
  __tsan_switch_to_fiber(other->thread, __tsan_switch_to_fiber_no_sync);
#endif
  emulated_switch(&block->main_pointer, other->stack_pointer);
#ifdef EMULATED_UNDER_ASAN
  __sanitizer_finish_switch_fiber(block->main_fake_stack, nullptr, nullptr);
#endif
  if (*reinterpret_cast<uint64_t*>(other->stack) != kEndOfStack) fail("a thread's local variables outgrow its stack");
  fiber = nullptr;
}

// Makes thread `number` of the block, which begins when it is resumed first.
EMULATED_UNSEEN inline void prepare(unsigned number) {
  Fiber& made = block->fibers[number];
  const dim3 size = block->size;
  made.index = {number % size.x, number / size.x % size.y, number / (size.x * size.y)};
  made.number = number;
  made.warp = number / kWarp;
  made.lane = number % kWarp;
  made.state = State::kReady;
  memset(made.met, 0, sizeof made.met);
  made.copies_begin = made.copies_end = made.open_group = 0;
  made.stack = block->room + number * kStack;
#ifdef EMULATED_UNDER_ASAN
  __asan_unpoison_memory_region(made.stack, kStack);
#endif
#ifdef EMULATED_UNDER_TSAN
  made.thread = __tsan_create_fiber(0);
#endif
  *reinterpret_cast<uint64_t*>(made.stack) = kEndOfStack;
  void** top = reinterpret_cast<void**>(made.stack + kStack - 64);
  *--top = nullptr;  // where begin() would return to
  *--top = reinterpret_cast<void*>(&begin);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  made.stack_pointer = top;
}

}  // namespace emulated
