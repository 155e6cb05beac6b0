// cuda_on_cpu.h - run CUDA kernels on the CPU for tests (g++ / clang++), or pass through to nvcc.
// Threads of a block are fibers scheduled cooperatively; works under -fsanitize=address,undefined and =thread.
//   kernels:  __global__ void k(...) { EMULATED_SHARED(float, s, [8][33]);  EMULATED_DYNAMIC_SHARED(float, d);  __syncthreads(); ... }
//   launch :  EMULATED_LAUNCH((k<7>), grid, block, smem_bytes, stream, args...);
// env: CUDA_EMU_ORDER=fwd|rev|rand  CUDA_EMU_SEED=n   CUDA_EMU_SMEM_LIMIT=bytes  CUDA_EMU_LAX_EXIT=1
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <type_traits>
#include <sys/mman.h>
#if __has_include(<cuda_fp16.h>)          // float4, dim3, __half, __nv_bfloat16: the toolkit headers have host paths
#include <vector_types.h>
#include <vector_functions.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#endif
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __align__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#define EMU_TSAN 1
#include <sanitizer/tsan_interface.h>
#endif
#define EMU_RT __attribute__((no_sanitize("thread"), no_sanitize("address"), noinline))
#ifndef __DRIVER_TYPES_H__
typedef int cudaError_t; typedef struct CUstream_st* cudaStream_t; enum { cudaSuccess = 0 };
#endif
inline cudaError_t cudaGetLastError() { return (cudaError_t)0; }
inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
namespace emulated {
extern "C" void cuda_emu_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.text
.weak cuda_emu_switch
.type cuda_emu_switch,@function
cuda_emu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
#else
#error "add a context switch for this CPU (or ucontext)"
#endif
enum St : uint8_t { READY, BLOCKBAR, WARPBAR, DONE };
struct Fiber {
  uint3 tid; unsigned lin, warp, lane; St st; void* sp; char* stack; const char* where; unsigned wmask; unsigned wgen;
  void* fake; void* tsan; int pred;
};
constexpr unsigned MAXT = 1024, SLOT = 16;
#ifdef EMU_TSAN
constexpr size_t STK = 32 << 10; constexpr unsigned GRAVE = 7000;
#else
constexpr size_t STK = 64 << 10;
#endif
struct alignas(64) Block {
  Fiber f[MAXT]; unsigned n, alive, at_bar; const char* bar_where; unsigned gen; int red_cnt, red_and, red_or, out_cnt, out_and, out_or;
  unsigned char slot[2][MAXT][SLOT];                  // warp exchange, double buffered
  const void* skey[64]; size_t soff[64]; unsigned ns; size_t stop, dyn;
  char *region, *arena; size_t region_size; void* main_sp; void* main_fake; void* main_tsan; const void* main_stk; size_t main_stk_sz;
  char sync[2], wsync[32][2], endsync; uint64_t rng; unsigned serial; int order; size_t smem_limit; void (*body)(void*); void* arg; Fiber* ord[MAXT];
  dim3 gdim, bdim; uint3 bidx; bool strict;
#ifdef EMU_TSAN
  void* grave[GRAVE + MAXT]; unsigned ngrave;
#endif
};
constexpr size_t ARENA = 256 << 10;
inline thread_local Block* B = nullptr;
inline thread_local Fiber* cur = nullptr;
[[noreturn]] EMU_RT inline void die(const char* m, const char* a = "", const char* b = "") {
  fprintf(stderr, "cuda_emu: %s %s %s (block %u,%u,%u thread %u,%u,%u)\n", m, a ? a : "", b ? b : "", B->bidx.x, B->bidx.y, B->bidx.z,
          cur ? cur->tid.x : 0, cur ? cur->tid.y : 0, cur ? cur->tid.z : 0); fflush(stderr); abort(); }
EMU_RT inline uint64_t rnd() { uint64_t x = B->rng; x ^= x << 13; x ^= x >> 7; x ^= x << 17; return B->rng = x; }
EMU_RT inline void to_main(bool last = false) {
  Fiber* me = cur;
#ifdef EMU_ASAN
  __sanitizer_start_switch_fiber(last ? nullptr : &me->fake, B->main_stk, B->main_stk_sz);
#endif
#ifdef EMU_TSAN
  __tsan_switch_to_fiber(B->main_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  cuda_emu_switch(&me->sp, B->main_sp);
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(me->fake, nullptr, nullptr);
#endif
}
EMU_RT inline void entry() {
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &B->main_stk, &B->main_stk_sz);
#endif
  B->body(B->arg);
#ifdef EMU_TSAN
  __tsan_release(&B->endsync);
#endif
  cur->st = DONE; B->alive--; to_main(true); abort();
}
EMU_RT inline void resume(Fiber* f) {
  cur = f;
#ifdef EMU_ASAN
  __sanitizer_start_switch_fiber(&B->main_fake, f->stack, STK);
#endif
#ifdef EMU_TSAN
  __tsan_switch_to_fiber(f->tsan, __tsan_switch_to_fiber_no_sync);
#endif
  cuda_emu_switch(&B->main_sp, f->sp);
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(B->main_fake, nullptr, nullptr);
#endif
  cur = nullptr;
}
EMU_RT inline void block_bar(const char* where, int pred = 0) {
  if (B->at_bar && B->bar_where != where) die("divergent __syncthreads:", where, B->bar_where);
  if (!B->at_bar) { B->bar_where = where; B->red_cnt = 0; B->red_and = 1; B->red_or = 0; }
  unsigned g = B->gen & 1; B->at_bar++; B->red_cnt += !!pred; B->red_and &= !!pred; B->red_or |= !!pred; cur->st = BLOCKBAR; cur->where = where;
#ifdef EMU_TSAN
  __tsan_release(&B->sync[g]);
#endif
  to_main();
#ifdef EMU_TSAN
  __tsan_acquire(&B->sync[g]);
#endif
}
// all lanes of mask meet; lanes of one warp only
EMU_RT inline void warp_bar(unsigned mask, const char* where) {
  if (!(mask >> cur->lane & 1)) die("*_sync: own lane not in mask", where);
  cur->wmask = mask; cur->where = where; cur->st = WARPBAR; cur->wgen++;
#ifdef EMU_TSAN
  __tsan_release(&B->wsync[cur->warp][cur->wgen & 1]);
#endif
  to_main();
#ifdef EMU_TSAN
  __tsan_acquire(&B->wsync[cur->warp][cur->wgen & 1]);
#endif
}
EMU_RT inline bool try_release_warp(Fiber* f) {
  Fiber* w0 = &B->f[f->warp * 32]; unsigned nl = std::min(32u, B->n - f->warp * 32);
  for (unsigned l = 0; l < 32; ++l) if (f->wmask >> l & 1) {
    if (l >= nl || w0[l].st == DONE) die("*_sync: mask names a lane that does not exist or has exited", f->where);
    if (w0[l].st != WARPBAR) return false;
    if (w0[l].wmask != f->wmask || w0[l].where != f->where) die("*_sync: lanes disagree:", f->where, w0[l].where);
  }
  for (unsigned l = 0; l < nl; ++l) if (f->wmask >> l & 1) w0[l].st = READY;
  return true;
}
EMU_RT inline void run_block() {
  Block& b = *B; ++b.serial; b.alive = b.n; b.at_bar = 0; b.gen = 0; b.ns = 0; b.stop = b.dyn;
#ifdef EMU_TSAN      // fresh shadow for stacks and shared memory: nothing of the previous block is ordered before this one
  mmap(b.region, b.region_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
#endif
#ifdef EMU_ASAN
  __asan_unpoison_memory_region(b.arena, ARENA);
#endif
  for (size_t i = 0; i < ARENA / 8; ++i) { ((volatile uint64_t*)b.arena)[i] = ~0ull; if (i * 8 > b.smem_limit) break; }   // poison: NaN / -1
#ifdef EMU_ASAN
  __asan_poison_memory_region(b.arena + b.dyn, ARENA - b.dyn);
#endif
  for (unsigned t = 0; t < b.n; ++t) {
    Fiber& f = b.f[t]; f.lin = t; f.warp = t / 32; f.lane = t % 32; f.st = READY; f.wgen = 0;
    f.tid.x = t % b.bdim.x; f.tid.y = t / b.bdim.x % b.bdim.y; f.tid.z = t / (b.bdim.x * b.bdim.y); f.stack = b.region + t * STK;
#ifdef EMU_ASAN
    __asan_unpoison_memory_region(f.stack, STK);
#endif
#ifdef EMU_TSAN
    f.tsan = __tsan_create_fiber(0);
#endif
    void** sp = (void**)(f.stack + STK - 64); *--sp = nullptr; *--sp = (void*)&entry; for (int i = 0; i < 6; ++i) *--sp = nullptr; f.sp = sp;
  }
  unsigned n = b.n; for (unsigned i = 0; i < n; ++i) b.ord[i] = &b.f[b.order == 1 ? n - 1 - i : i];
  while (b.alive) {
    if (b.order == 2) for (unsigned i = n - 1; i > 0; --i) { unsigned j = rnd() % (i + 1); Fiber* t = b.ord[i]; b.ord[i] = b.ord[j]; b.ord[j] = t; }
    bool ran = false;
    for (unsigned i = 0; i < n; ++i) { Fiber* f = b.ord[i]; if (f->st == READY || (f->st == WARPBAR && try_release_warp(f))) { ran = true; resume(f); } }
    if (b.at_bar && b.at_bar == b.alive) {              // exited threads no longer count (sm_70+)
      if (b.strict && b.alive != b.n) die("__syncthreads not reached by threads that have exited:", b.bar_where);
      b.at_bar = 0; b.gen++; b.out_cnt = b.red_cnt; b.out_and = b.red_and; b.out_or = b.red_or;
      for (unsigned i = 0; i < n; ++i) if (b.f[i].st == BLOCKBAR) b.f[i].st = READY;
      ran = true;
    }
    if (!ran && b.alive) { for (unsigned i = 0; i < n; ++i) if (b.f[i].st != DONE && b.f[i].st != READY) { cur = &b.f[i]; break; } die("deadlock: threads wait at", cur->where); }
  }
#ifdef EMU_TSAN
  for (unsigned t = 0; t < b.n; ++t) b.grave[b.ngrave++] = b.f[t].tsan;      // keep ids alive: a reused id hides cross-block races
  if (b.ngrave + b.n > GRAVE) { for (unsigned i = 0; i < b.ngrave; ++i) __tsan_destroy_fiber(b.grave[i]); b.ngrave = 0; }
#endif
}
template <class F> inline void tramp(void* p) { (*(F*)p)(); }
EMU_RT inline void launch_raw(dim3 g, dim3 bl, size_t dyn, void (*body)(void*), void* arg) {
  static thread_local Block* S = nullptr;
  if (!S) { S = (Block*)mmap(0, sizeof(Block), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    S->region_size = MAXT * STK + ARENA; S->region = (char*)mmap(0, S->region_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    S->arena = S->region + MAXT * STK; const char* e = getenv("CUDA_EMU_ORDER"); S->order = !e ? 0 : !strcmp(e, "rev") ? 1 : !strcmp(e, "rand") ? 2 : 0;
    e = getenv("CUDA_EMU_LAX_EXIT"); S->strict = !e; e = getenv("CUDA_EMU_SEED"); S->rng = (e ? strtoull(e, 0, 10) : 1) * 0x9E3779B97F4A7C15ull + 1; e = getenv("CUDA_EMU_SMEM_LIMIT"); S->smem_limit = e ? strtoull(e, 0, 10) : 227 << 10; }
  B = S; cur = nullptr; B->gdim = g; B->bdim = bl; B->n = bl.x * bl.y * bl.z; B->dyn = dyn; B->body = body; B->arg = arg;
  if (!B->n || B->n > MAXT || bl.z > 64) die("invalid block size"); if (!g.x || !g.y || !g.z || g.y > 65535 || g.z > 65535) die("invalid grid size");
  if (dyn > B->smem_limit) die("dynamic shared memory over the limit");
#ifdef EMU_TSAN
  B->main_tsan = __tsan_get_current_fiber();
#endif
  size_t nb = (size_t)g.x * g.y * g.z; size_t step = 1, start = 0;
  if (B->order == 1) { start = nb - 1; step = nb - 1; } else if (B->order == 2) { start = rnd() % nb; step = 1; }   // blocks in another order too
  for (size_t i = 0, k = start; i < nb; ++i, k = (k + step) % nb) { B->bidx.x = k % g.x; B->bidx.y = k / g.x % g.y; B->bidx.z = k / ((size_t)g.x * g.y); run_block(); if (nb == 1) break; }
#ifdef EMU_TSAN
  __tsan_acquire(&B->endsync);
  for (unsigned i = 0; i < B->ngrave; ++i) __tsan_destroy_fiber(B->grave[i]); B->ngrave = 0;
#endif
  B->bdim = dim3(0, 0, 0);
}
template <class F> inline void launch(dim3 g, dim3 b, size_t dyn, F&& f) { using FF = std::remove_reference_t<F>; launch_raw(g, b, dyn, &tramp<FF>, (void*)&f); }
EMU_RT inline void* shared_at(const void* key, size_t bytes, size_t align) {
  Block& b = *B; for (unsigned i = 0; i < b.ns; ++i) if (b.skey[i] == key) return b.arena + b.soff[i];
  size_t pad = 0;
#ifdef EMU_ASAN
  pad = 64;                                             // red zone between arrays
#endif
  size_t o = (b.stop + pad + std::max<size_t>(align, 16) - 1) / std::max<size_t>(align, 16) * std::max<size_t>(align, 16);
  if (b.ns == 64 || o + bytes > b.smem_limit) die("static shared memory over the limit");
  b.skey[b.ns] = key; b.soff[b.ns++] = o; b.stop = o + bytes;
#ifdef EMU_ASAN
  __asan_unpoison_memory_region(b.arena + o, bytes);
#endif
  return b.arena + o;
}
// ---- warp collectives
template <class T, class S> EMU_RT T exchange(T v, unsigned mask, const char* w, S src) {
  static_assert(sizeof(T) <= SLOT, ""); unsigned g = (cur->wgen + 1) & 1; __builtin_memcpy(B->slot[g][cur->lin], &v, sizeof(T));
  warp_bar(mask, w); unsigned s = src(cur->lane); if (!(mask >> (s & 31) & 1)) die("shfl from a lane outside the mask", w);
  T r; __builtin_memcpy(&r, B->slot[g][cur->warp * 32 + (s & 31)], sizeof(T)); return r; }
template <class T> T shfl(const char* w, unsigned m, T v, int src, int width = 32) { return exchange(v, m, w, [=](unsigned l) { return (l & ~(width - 1)) | (src & (width - 1)); }); }
template <class T> T shfl_xor(const char* w, unsigned m, T v, int x, int width = 32) { return exchange(v, m, w, [=](unsigned l) { unsigned s = l ^ x; return (s & ~(width - 1u)) > (l & ~(width - 1u)) ? l : s; }); }
template <class T> T shfl_down(const char* w, unsigned m, T v, unsigned d, int width = 32) { return exchange(v, m, w, [=](unsigned l) { return (l & (width - 1)) + d < (unsigned)width ? l + d : l; }); }
template <class T> T shfl_up(const char* w, unsigned m, T v, unsigned d, int width = 32) { return exchange(v, m, w, [=](unsigned l) { return (l & (width - 1)) >= d ? l - d : l; }); }
inline unsigned ballot(const char* w, unsigned m, int p) { unsigned r = 0; unsigned g = (cur->wgen + 1) & 1; exchange(p, m, w, [=](unsigned l) { return l; });
  for (unsigned l = 0; l < 32; ++l) if (m >> l & 1) { int q; __builtin_memcpy(&q, B->slot[g][cur->warp * 32 + l], 4); if (q) r |= 1u << l; } return r; }
template <class T> T wred(const char* w, unsigned m, T v, T (*op)(T, T)) { unsigned g = (cur->wgen + 1) & 1; exchange(v, m, w, [=](unsigned l) { return l; }); bool first = true; T r{};
  for (unsigned l = 0; l < 32; ++l) if (m >> l & 1) { T q; __builtin_memcpy(&q, B->slot[g][cur->warp * 32 + l], sizeof q); r = first ? q : op(r, q); first = false; } return r; }
// ---- atomics (real atomics, so TSan knows them)
template <class T, class O> T rmw(T* p, O op) { using U = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>; U* q = (U*)p; U o = __atomic_load_n(q, __ATOMIC_RELAXED), n;
  T ov; do { __builtin_memcpy(&ov, &o, sizeof o); T nv = op(ov); __builtin_memcpy(&n, &nv, sizeof n); } while (!__atomic_compare_exchange_n(q, &o, n, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)); return ov; }
}  // namespace emulated
#define EMU_STR2(x) #x
#define EMU_STR(x) EMU_STR2(x)
#define EMU_WHERE __FILE__ ":" EMU_STR(__LINE__)
#define threadIdx (emulated::cur->tid)
#define blockIdx (emulated::B->bidx)
#define blockDim (emulated::B->bdim)
#define gridDim (emulated::B->gdim)
static constexpr int warpSize = 32;
#define EMULATED_SHARED(T, name, dims) static const char name##_key = 0; using name##_t = T dims; name##_t& name = *reinterpret_cast<name##_t*>(emulated::shared_at(&name##_key, sizeof(name##_t), alignof(name##_t)))
#define EMULATED_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emulated::B->arena)
#define EMULATED_LAUNCH(k, g, b, sm, st, ...) ((void)(st), emulated::launch(g, b, sm, [&] { k(__VA_ARGS__); }))
#define __syncthreads() emulated::block_bar(EMU_WHERE)
#define __syncthreads_count(p) (emulated::block_bar(EMU_WHERE, p), emulated::B->out_cnt)
#define __syncthreads_or(p) (emulated::block_bar(EMU_WHERE, p), emulated::B->out_or)
#define __syncthreads_and(p) (emulated::block_bar(EMU_WHERE, p), emulated::B->out_and)
inline unsigned emu_mask() { return 0xffffffffu; } inline unsigned emu_mask(unsigned m) { return m; }
#define __syncwarp(...) emulated::warp_bar(emu_mask(__VA_ARGS__), EMU_WHERE)
#define __shfl_sync(m, ...) emulated::shfl(EMU_WHERE, m, __VA_ARGS__)
#define __shfl_xor_sync(m, ...) emulated::shfl_xor(EMU_WHERE, m, __VA_ARGS__)
#define __shfl_down_sync(m, ...) emulated::shfl_down(EMU_WHERE, m, __VA_ARGS__)
#define __shfl_up_sync(m, ...) emulated::shfl_up(EMU_WHERE, m, __VA_ARGS__)
#define __ballot_sync(m, p) emulated::ballot(EMU_WHERE, m, p)
#define __any_sync(m, p) (emulated::ballot(EMU_WHERE, m, p) != 0)
#define __all_sync(m, p) (emulated::ballot(EMU_WHERE, m, p) == (m))
#define __reduce_add_sync(m, v) emulated::wred<std::decay_t<decltype(v)>>(EMU_WHERE, m, v, [](auto a, auto b) { return a + b; })
#define __threadfence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define __threadfence_block() __atomic_thread_fence(__ATOMIC_SEQ_CST)
template <class T> inline T emu_ldg(const T* p) { return *p; }
#define __ldg(p) emu_ldg(p)
#define __ldcs(p) emu_ldg(p)
#define __ldcg(p) emu_ldg(p)
template <class T> inline void __stcs(T* p, T v) { *p = v; }
template <class T> inline void __stcg(T* p, T v) { *p = v; }
template <class T> inline T atomicAdd(T* p, std::type_identity_t<T> v) { return emulated::rmw(p, [=](T o) { return T(o + v); }); }
template <class T> inline T atomicMax(T* p, std::type_identity_t<T> v) { return emulated::rmw(p, [=](T o) { return o > v ? o : v; }); }
template <class T> inline T atomicMin(T* p, std::type_identity_t<T> v) { return emulated::rmw(p, [=](T o) { return o < v ? o : v; }); }
template <class T> inline T atomicExch(T* p, std::type_identity_t<T> v) { return emulated::rmw(p, [=](T) { return v; }); }
template <class T> inline T atomicCAS(T* p, std::type_identity_t<T> c, std::type_identity_t<T> v) { return emulated::rmw(p, [=](T o) { return o == c ? v : o; }); }
inline float __expf(float x) { return std::exp(x); } inline float __fdividef(float a, float b) { return a / b; } inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); } inline float __frcp_rn(float x) { return 1.f / x; } inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __popc(unsigned x) { return __builtin_popcount(x); } inline int __ffs(int x) { return __builtin_ffs(x); } inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
using std::min; using std::max;
#include "tensor_cores.h"
