// Shuffles, votes and reductions of a warp, and atomics.
#pragma once

#include "barriers.h"

namespace emulated {

template <typename T>
EMULATED_UNSEEN T from_lane(Given given, unsigned lane) {
  T value;
  __builtin_memcpy(&value, given[lane], sizeof(T));
  return value;
}

template <typename T>
Given from_all(const char* where, unsigned mask, const T& mine) {
  return meet(mask, where, mine, false);
}

// The value of lane source(own lane).
template <typename T, typename Source>
T exchange(const char* where, unsigned mask, T value, Source source) {
  const Given given = from_all(where, mask, value);
  const unsigned lane = source(fiber->lane) % kWarp;
  if (!(mask >> lane & 1)) fail("shfl from a lane outside the mask", where);
  return from_lane<T>(given, lane);
}

template <typename T>
T shfl(const char* where, unsigned mask, T value, unsigned source, unsigned width = kWarp) {
  return exchange(where, mask, value, [=](unsigned lane) { return (lane & ~(width - 1)) | (source & (width - 1)); });
}

template <typename T>
T shfl_xor(const char* where, unsigned mask, T value, unsigned bits, unsigned width = kWarp) {
  return exchange(where, mask, value, [=](unsigned lane) {
    const unsigned other = lane ^ bits;
    return (other & ~(width - 1)) > (lane & ~(width - 1)) ? lane : other;
  });
}

template <typename T>
T shfl_down(const char* where, unsigned mask, T value, unsigned distance, unsigned width = kWarp) {
  return exchange(where, mask, value,
                  [=](unsigned lane) { return (lane & (width - 1)) + distance < width ? lane + distance : lane; });
}

template <typename T>
T shfl_up(const char* where, unsigned mask, T value, unsigned distance, unsigned width = kWarp) {
  return exchange(where, mask, value,
                  [=](unsigned lane) { return (lane & (width - 1)) >= distance ? lane - distance : lane; });
}

inline unsigned ballot(const char* where, unsigned mask, bool vote) {
  const Given given = from_all(where, mask, vote);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (mask >> lane & 1 && from_lane<bool>(given, lane)) votes |= 1u << lane;
  return votes;
}

// operation(..., ...) over the lanes of the mask.
template <typename T, typename Operation>
T reduce(const char* where, unsigned mask, T value, Operation operation) {
  const Given given = from_all(where, mask, value);
  unsigned lane = __builtin_ctz(mask);
  T sum = from_lane<T>(given, lane);
  while (++lane < kWarp)
    if (mask >> lane & 1) sum = operation(sum, from_lane<T>(given, lane));
  return sum;
}

// *at = operation(*at), by an atomic of the CPU, which ThreadSanitizer knows; what was there before.
template <typename T, typename Operation>
T update(T* at, Operation operation) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  static_assert(sizeof(T) == sizeof(Bits));
  Bits* place = reinterpret_cast<Bits*>(at);
  Bits before = __atomic_load_n(place, __ATOMIC_RELAXED), after;
  T old;
  do {
    __builtin_memcpy(&old, &before, sizeof old);
    const T updated = operation(old);
    __builtin_memcpy(&after, &updated, sizeof after);
  } while (!__atomic_compare_exchange_n(place, &before, after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace emulated
