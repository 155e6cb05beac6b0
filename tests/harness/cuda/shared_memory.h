// Shared memory of an emulated block: poison (NaN, -1) until it is written, with red zones for AddressSanitizer.
#pragma once

#include "fibers.h"

namespace emulated {

constexpr size_t kStaticLimit = 48 << 10;  // of what is not asked for at the launch
#ifdef EMULATED_UNDER_ASAN
constexpr size_t kRedZone = 64;
#else
constexpr size_t kRedZone = 0;
#endif

EMULATED_UNSEEN inline void poison(void* from, size_t bytes) {
  volatile char* at = static_cast<char*>(from);  // volatile: else a call of memset, which a sanitizer would judge
  size_t done = 0;
  for (; done + 8 <= bytes; done += 8) *reinterpret_cast<volatile uint64_t*>(at + done) = ~uint64_t{0};
  for (; done < bytes; ++done) at[done] = static_cast<char>(-1);
}

// What the launch asked for comes first, arrays behind it as the kernel comes to them.
EMULATED_UNSEEN inline void reset_shared() {
  Block& b = *block;
  b.arrays = 0;
  b.static_bytes = 0;
  b.shared_end = b.dynamic_bytes;
#ifdef EMULATED_UNDER_ASAN
  __asan_unpoison_memory_region(b.shared, b.dynamic_bytes);
  __asan_poison_memory_region(b.shared + b.dynamic_bytes, kSharedRoom - b.dynamic_bytes);
#endif
  poison(b.shared, b.dynamic_bytes);
}

// The block's array of this key; poison when the first thread comes.
EMULATED_UNSEEN inline void* shared_array(const void* key, size_t bytes, size_t alignment) {
  Block& b = *block;
  for (unsigned i = 0; i < b.arrays; ++i)
    if (b.array_key[i] == key) return b.shared + b.array_at[i];
  if (alignment < 16) alignment = 16;
  const size_t at = (b.shared_end + kRedZone + alignment - 1) / alignment * alignment;
  b.static_bytes += bytes;
  if (b.static_bytes > kStaticLimit) fail("static shared memory over 48 KiB");
  if (b.arrays == kMostArrays || b.dynamic_bytes + b.static_bytes > b.shared_limit || at + bytes > kSharedRoom)
    fail("shared memory over the limit");
  b.array_key[b.arrays] = key;
  b.array_at[b.arrays++] = at;
  b.shared_end = at + bytes;
#ifdef EMULATED_UNDER_ASAN
  __asan_unpoison_memory_region(b.shared + at, bytes);
#endif
  poison(b.shared + at, bytes);
  return b.shared + at;
}

}  // namespace emulated
