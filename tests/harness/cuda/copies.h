// The twin of csrc/cuda/async.h.
//
// What is copied is read at once, so that a sanitizer names the line of a wrong address; it arrives when its thread
// waits for it, and from the start until then the place holds poison, which nobody may read or still need.
#pragma once

#include "barriers.h"

namespace emulated {

// Of the kernel's memory, which sanitizers judge; hence not inlined into what they do not see.
__attribute__((noinline)) inline void move_bytes(void* to, const void* from, unsigned count) {
  EMULATED_UNCOUNTED;
  for (unsigned i = 0; i < count; ++i) static_cast<unsigned char*>(to)[i] = static_cast<const unsigned char*>(from)[i];
}

EMULATED_UNSEEN inline void remember(void* to, const unsigned char (&data)[16], unsigned bytes) {
  Fiber& self = *fiber;
  if (self.copies_end - self.copies_begin == kMostCopies) fail("the emulator keeps no more copies of one thread");
  Copy& copy = block->copies[self.number][self.copies_end++ % kMostCopies];
  copy.to = to;
  copy.bytes = bytes;
  copy.group = self.open_group;
  __builtin_memcpy(copy.data, data, sizeof data);
}

// The oldest copy, taken from the list, if it is in one of all but the last `groups` groups that were ended.
EMULATED_UNSEEN inline const Copy* arrived(unsigned groups) {
  Fiber& self = *fiber;
  if (self.copies_begin == self.copies_end) return nullptr;
  const Copy& oldest = block->copies[self.number][self.copies_begin % kMostCopies];
  if (oldest.group + groups >= self.open_group) return nullptr;
  ++self.copies_begin;
  return &oldest;
}

EMULATED_INLINE void copy_async(void* to, const void* from, int bytes, bool inside) {
  EMULATED_COUNT(kCopy, inside ? from : to, bytes);
  if (reinterpret_cast<uintptr_t>(to) % bytes || (inside && reinterpret_cast<uintptr_t>(from) % bytes))
    fail("cp.async: an address is no multiple of the size");
  unsigned char data[16];
  memset(data, 0xff, sizeof data);
  move_bytes(to, data, bytes);
  memset(data, 0, sizeof data);
  if (inside) move_bytes(data, from, bytes);
  remember(to, data, bytes);
}

EMULATED_UNSEEN inline void commit_async() { ++fiber->open_group; }

inline void wait_async(int groups) {
  while (const Copy* copy = arrived(groups)) move_bytes(copy->to, copy->data, copy->bytes);
}

}  // namespace emulated
