// Plain C++ twins of csrc/cuda/mma.h and async.h, for the emulator: the same layouts of fragments, rounding and waiting.
#pragma once

#include <bit>
#include <deque>
#include <vector>

namespace aminet {
struct Tf32;
}

namespace emulated {

// What every lane of the warp gave, by lane; all 32 must come along.
template <class T>
struct Warp {
  T of[32];
};
template <class T>
EMU_RT Warp<T> gather(const char* where, const T& mine) {
  static_assert(sizeof(T) <= SLOT);
  const unsigned generation = (cur->wgen + 1) & 1;
  __builtin_memcpy(B->slot[generation][cur->lin], &mine, sizeof(T));
  warp_bar(0xffffffffu, where);
  Warp<T> all;
  for (unsigned lane = 0; lane < 32; ++lane)
    __builtin_memcpy(&all.of[lane], B->slot[generation][cur->warp * 32 + lane], sizeof(T));
  return all;
}

inline uint32_t to_tf32(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;  // nearest, ties away from zero
}

// Element k of a register: one of two of 16 bits, or the one float.
template <class T>
float element(uint32_t bits, int k) {
  if constexpr (std::is_same_v<T, aminet::Tf32>) {
    return std::bit_cast<float>(bits & ~0x1fffu);
  } else {
    const uint16_t half = static_cast<uint16_t>(k ? bits >> 16 : bits);
    T value;
    __builtin_memcpy(&value, &half, sizeof value);
    return static_cast<float>(value);
  }
}

// D += A B of the fragments of a warp (csrc/cuda/mma.h has their layout).
template <class T>
EMU_RT void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  constexpr bool single = std::is_same_v<T, aminet::Tf32>;
  constexpr int each = single ? 1 : 2;  // elements of a register
  struct A {
    uint32_t r[4];
  } mine = {{a[0], a[1], a[2], a[3]}};
  struct Columns {
    uint32_t r[2];
  } columns = {{b[0], b[1]}};
  const Warp<A> all_a = gather("mma", mine);
  const Warp<Columns> all_b = gather("mma", columns);
  const int group = cur->lane / 4, four = cur->lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i >= 2 ? 8 : 0), column = 2 * four + i % 2;
    float sum = d[i];
    for (int half = 0; half < 2; ++half)  // of k
      for (int lane = 0; lane < 4; ++lane)
        for (int k = 0; k < each; ++k)
          sum += element<T>(all_a.of[row % 8 * 4 + lane].r[row / 8 + 2 * half], k) *
                 element<T>(all_b.of[column * 4 + lane].r[half], k);
    d[i] = sum;
  }
}

// One to four 8x8 matrices of 16 bits (csrc/cuda/mma.h).
template <int N>
EMU_RT void load_matrices(uint32_t (&out)[N], int matrices, bool transposed, const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 && static_cast<int>(cur->lane) < 8 * matrices)
    die("ldmatrix: a row's address is no multiple of 16");
  const Warp<const void*> rows = gather("ldmatrix", row);
  for (int i = 0; i < N; ++i) {
    uint32_t bits = 0;
    for (int k = 0; k < 2; ++k) {
      const int r = transposed ? 2 * (cur->lane % 4) + k : cur->lane / 4;
      const int c = transposed ? cur->lane / 4 : 2 * (cur->lane % 4) + k;
      bits |= static_cast<uint32_t>(static_cast<const uint16_t*>(rows.of[8 * i + r])[c]) << (16 * k);
    }
    out[i] = bits;
  }
}

// A thread's copies that are under way, by groups; the last group is open.
struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool inside;
};
struct Copies {
  unsigned of_launch_block = 0;
  std::deque<std::vector<Copy>> groups{1};
};
inline std::vector<Copies>& all_copies() {
  static thread_local std::vector<Copies> copies(MAXT);
  return copies;
}
inline Copies& my_copies() {
  Copies& mine = all_copies()[cur->lin];
  if (mine.of_launch_block != B->serial) {  // what an earlier block left is gone
    mine.groups.assign(1, {});
    mine.of_launch_block = B->serial;
  }
  return mine;
}

inline void copy_async(void* to, const void* from, int bytes, bool inside) {
  if (reinterpret_cast<uintptr_t>(to) % bytes || (inside && reinterpret_cast<uintptr_t>(from) % bytes))
    die("cp.async: an address is no multiple of the size");
  my_copies().groups.back().push_back({to, from, bytes, inside});
}
inline void commit_async() { my_copies().groups.emplace_back(); }
inline void wait_async(int groups) {
  auto& under_way = my_copies().groups;
  while (static_cast<int>(under_way.size()) - 1 > groups) {
    for (const Copy& copy : under_way.front())
      copy.inside ? std::memcpy(copy.to, copy.from, copy.bytes) : std::memset(copy.to, 0, copy.bytes);
    under_way.pop_front();
  }
}

}  // namespace emulated
