// Where threads of an emulated block wait for each other, and when they go on.
#pragma once

#include "fibers.h"

namespace emulated {

// __syncthreads and its voting kin; `where` is the line, which all threads have to agree on.
EMULATED_UNSEEN inline Votes block_barrier(const char* where, int vote = 0) {
  Block& b = *block;
  if (b.at_barrier && b.barrier_at != where) fail("divergent __syncthreads:", where, b.barrier_at);
  if (!b.at_barrier) {
    b.barrier_at = where;
    b.voting = {0, 1, 0};
  }
  [[maybe_unused]] const unsigned turn = b.barriers & 1;
  ++b.at_barrier;
  b.voting.count += vote != 0;
  b.voting.all &= vote != 0;
  b.voting.any |= vote != 0;
  fiber->state = State::kAtBlockBarrier;
  fiber->waits_at = where;
#ifdef EMULATED_UNDER_TSAN
  __tsan_release(&b.ordered->of_block[turn]);
#endif
  leave();
#ifdef EMULATED_UNDER_TSAN
  __tsan_acquire(&b.ordered->of_block[turn]);
#endif
  return b.voted;
}

// Lets go of all threads if all that are left wait. Those that have ended do not count on a GPU either (sm_70 and
// newer), but a kernel that relies on it is mostly one with a barrier in the wrong place.
EMULATED_UNSEEN inline bool release_block() {
  Block& b = *block;
  if (!b.at_barrier || b.at_barrier != b.alive) return false;
  if (b.alive != b.threads && !b.may_exit_early)
    fail("__syncthreads not reached by threads that have exited:", b.barrier_at);
  b.at_barrier = 0;
  ++b.barriers;
  b.voted = b.voting;
  for (unsigned i = 0; i < b.threads; ++i)
    if (b.fibers[i].state == State::kAtBlockBarrier) b.fibers[i].state = State::kReady;
  return true;
}

EMULATED_UNSEEN inline unsigned lanes_of(unsigned warp, unsigned mask) {
  unsigned& known = block->masks[warp];
  for (unsigned i = 0; i < known; ++i)
    if (block->lanes[warp][i].mask == mask) return i;
  if (known == kMostMasks) fail("the emulator keeps no more masks of one warp", fiber->waits_at);
  block->lanes[warp][known].mask = mask;
  return known++;
}

// All lanes of the mask meet, each giving a value; what all gave, by lane, until this lane meets the same again.
// fence: whether it orders memory, as __syncwarp does and shuffles, votes and products do not.
using Given = const unsigned char (*)[kExchanged];
template <typename T>
EMULATED_UNSEEN Given meet(unsigned mask, const char* where, const T& mine, [[maybe_unused]] bool fence) {
  static_assert(sizeof(T) <= kExchanged);
  Fiber& self = *fiber;
  if (!(mask >> self.lane & 1)) fail("*_sync: own lane not in mask", where);
  self.mask = mask;
  self.waits_at = where;
  const unsigned which = lanes_of(self.warp, mask);
  Lanes& lanes = block->lanes[self.warp][which];
  const unsigned turn = self.met[which]++ & 1;
  __builtin_memcpy(lanes.given[turn][self.lane], &mine, sizeof mine);  // of a constant size: no call
  self.state = State::kAtWarpBarrier;
#ifdef EMULATED_UNDER_TSAN
  char& ordered = block->ordered->of_lanes[self.warp][which][turn];
  if (fence) __tsan_release(&ordered);
#endif
  leave();
#ifdef EMULATED_UNDER_TSAN
  if (fence) __tsan_acquire(&ordered);
#endif
  return lanes.given[turn];
}

inline void warp_barrier(unsigned mask, const char* where) { meet(mask, where, char{}, true); }

// Lets go of all lanes that `one` waits for, if all wait for the same.
EMULATED_UNSEEN inline bool release_warp(Fiber* one) {
  Fiber* warp = &block->fibers[one->warp * kWarp];
  const unsigned lanes = block->threads - one->warp * kWarp < kWarp ? block->threads - one->warp * kWarp : kWarp;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!(one->mask >> lane & 1)) continue;
    if (lane >= lanes || warp[lane].state == State::kEnded)
      fail("*_sync: mask names a lane that does not exist or has exited", one->waits_at);
    if (warp[lane].state != State::kAtWarpBarrier || warp[lane].mask != one->mask) return false;
    if (warp[lane].waits_at != one->waits_at) fail("*_sync: lanes disagree:", one->waits_at, warp[lane].waits_at);
  }
  for (unsigned lane = 0; lane < lanes; ++lane)
    if (one->mask >> lane & 1) warp[lane].state = State::kReady;
  return true;
}

// __threadfence: what was done before somebody's fence is seen after a later one of anybody's.
EMULATED_UNSEEN inline void fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#ifdef EMULATED_UNDER_TSAN  // which does not know fences
  static char fences;
  __tsan_acquire(&fences);
  __tsan_release(&fences);
#endif
}

}  // namespace emulated
