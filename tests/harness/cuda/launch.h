// Running a grid: its blocks one after another, their threads in the order that the environment asks for.
//
//   CUDA_EMU_ORDER = fwd | rev | rand   of threads and of blocks      CUDA_EMU_SEED = of rand
//   CUDA_EMU_SMEM_LIMIT = bytes of shared memory, else sm_90's 227 KiB: 101376 is what sm_86 and sm_89 have
//   CUDA_EMU_LAX_EXIT = 1   threads may end before a barrier of others
#pragma once

#include <tuple>
#include <type_traits>

#include "barriers.h"
#include "shared_memory.h"

namespace emulated {

EMULATED_UNSEEN inline void shuffle() {
  for (unsigned i = block->threads - 1; i > 0; --i) {
    const unsigned j = random_below(i + 1);
    Fiber* other = block->order[i];
    block->order[i] = block->order[j];
    block->order[j] = other;
  }
}

[[noreturn]] EMULATED_UNSEEN inline void deadlock() {
  for (unsigned i = 0; i < block->threads; ++i) {
    fiber = &block->fibers[i];
    if (fiber->state == State::kAtWarpBarrier) fail("deadlock: lanes disagree, or some do not come:", fiber->waits_at);
    if (fiber->state == State::kAtBlockBarrier) break;
  }
  fail("deadlock: threads wait at", fiber->waits_at);
}

#ifdef EMULATED_UNDER_TSAN
// Ended threads stay known as long as possible: one whose number is used again hides races between blocks.
EMULATED_UNSEEN inline void bury(bool all) {
  Block& b = *block;
  if (!all && b.ended_count + b.threads <= kMostEnded) return;
  for (unsigned i = 0; i < b.ended_count; ++i) __tsan_destroy_fiber(b.ended_threads[i]);
  b.ended_count = 0;
}

// Fresh pages, of which nothing is known: earlier blocks used these places, and are not ordered before this one.
EMULATED_UNSEEN inline void forget() {
  const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  mmap(block->room, kRoom, PROT_READ | PROT_WRITE, kind, -1, 0);
  munmap(block->ordered, sizeof(Barriers));  // what barriers ordered is only forgotten by that
  mmap(block->ordered, sizeof(Barriers), PROT_READ | PROT_WRITE, kind, -1, 0);
}
#endif

EMULATED_UNSEEN inline void run_block() {
  Block& b = *block;
  b.alive = b.threads;
  b.at_barrier = b.barriers = 0;
  memset(b.masks, 0, sizeof b.masks);
#ifdef EMULATED_UNDER_TSAN
  forget();
#endif
  reset_shared();
  for (unsigned i = 0; i < b.threads; ++i) {
    prepare(i);
    b.order[i] = &b.fibers[b.in == Block::kReverse ? b.threads - 1 - i : i];
  }
  while (b.alive) {
    if (b.in == Block::kRandom) shuffle();
    bool ran = false;
    for (unsigned i = 0; i < b.threads; ++i) {
      Fiber* next = b.order[i];
      if (next->state == State::kReady || (next->state == State::kAtWarpBarrier && release_warp(next))) {
        ran = true;
        resume(next);
      }
    }
    if (!release_block() && !ran && b.alive) deadlock();
  }
#ifdef EMULATED_UNDER_TSAN
  for (unsigned i = 0; i < b.threads; ++i) b.ended_threads[b.ended_count++] = b.fibers[i].thread;
  bury(false);
#endif
}

EMULATED_UNSEEN inline Block* make_block() {
  // Pages that nobody touches cost nothing.
  constexpr int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const auto pages = [](size_t bytes) { return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, kind, -1, 0); };
  Block* made = static_cast<Block*>(pages(sizeof(Block)));
  made->ordered = static_cast<Barriers*>(pages(sizeof(Barriers)));
  made->room = static_cast<char*>(pages(kRoom));
  made->shared = made->room + kMostThreads * kStack;
  return made;
}

// Bytes that a block may ask for: what cudaDevAttrMaxSharedMemoryPerBlockOptin is of a GPU.
inline size_t shared_limit() {
  const char* limit = getenv("CUDA_EMU_SMEM_LIMIT");
  return limit ? strtoull(limit, nullptr, 10) : 227 << 10;
}

EMULATED_UNSEEN inline void read_environment() {
  const char* order = getenv("CUDA_EMU_ORDER");
  const char* seed = getenv("CUDA_EMU_SEED");
  const bool reverse = order && !strcmp(order, "rev"), random = order && !strcmp(order, "rand");
  if (order && *order && strcmp(order, "fwd") && !reverse && !random) fail("CUDA_EMU_ORDER is fwd, rev or rand, not", order);
  block->in = reverse ? Block::kReverse : random ? Block::kRandom : Block::kForward;
  block->may_exit_early = getenv("CUDA_EMU_LAX_EXIT");
  block->shared_limit = shared_limit();
  block->random_state = (seed ? strtoull(seed, nullptr, 10) : 1) * 0x9E3779B97F4A7C15ull + 1;
}

EMULATED_UNSEEN inline void check_sizes(dim3 grid, dim3 size, size_t bytes) {
  const bool none = !size.x || !size.y || !size.z;
  if (none || size.x > 1024 || size.y > 1024 || size.z > 64 || size_t{size.x} * size.y * size.z > kMostThreads)
    fail("invalid block size");
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    fail("invalid grid size");
  if (bytes > block->shared_limit) fail("dynamic shared memory over the limit");
}

EMULATED_UNSEEN inline void run_grid(dim3 grid, dim3 size, size_t bytes, void (*kernel)(void*), void* arguments) {
  static thread_local Block* made = make_block();
  block = made;
  fiber = nullptr;
  block->index = {0, 0, 0};
  read_environment();
  check_sizes(grid, size, bytes);
  block->grid = grid;
  block->size = size;
  block->threads = size.x * size.y * size.z;
  block->dynamic_bytes = bytes;
  block->kernel = kernel;
  block->arguments = arguments;
#ifdef EMULATED_UNDER_TSAN
  block->main_thread = __tsan_get_current_fiber();
#endif
  const size_t blocks = size_t{grid.x} * grid.y * grid.z;
  const size_t first = block->in == Block::kRandom ? random_below(blocks) : 0;
  for (size_t i = 0; i < blocks; ++i) {
    const size_t number = block->in == Block::kReverse ? blocks - 1 - i : (first + i) % blocks;
    if (!EMULATED_CHOSEN(number, blocks)) continue;
    block->index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                    static_cast<unsigned>(number / grid.x / grid.y)};
    run_block();
  }
#ifdef EMULATED_UNDER_TSAN
  __tsan_acquire(&block->ended);
  bury(true);
#endif
}

// kernel(arguments...) in every thread; arguments are evaluated once and given by value, as a launch does.
template <typename Kernel, typename... Arguments>
void launch(dim3 grid, dim3 size, size_t bytes, Kernel&& kernel, Arguments... arguments) {
  auto call = [&kernel, all = std::tuple<Arguments...>(arguments...)] { std::apply(kernel, all); };
  run_grid(grid, size, bytes, [](void* it) { (*static_cast<decltype(call)*>(it))(); }, &call);
}

}  // namespace emulated
