// Small kernels in the manner of csrc/cuda, right with fault 0 and each with planted faults, for tests of the emulator
// (tests/harness/cuda/faulty.py numbers them). The fault is an argument, so that one library has them all.
#include "cuda/async.h"
#include "cuda/tensors.h"

namespace aminet {
namespace {

enum Fault {
  kNone,
  kMissingBarrier,
  kGlobalIndex,
  kSharedIndex,
  kSkippedTail,
  kDivergentBarrier,
  kReusedWithoutBarrier,
  kAccumulatedByBlocks,
  kMisalignedVector,
  kMissingSyncwarp,
  kMissingWait,
  kCopiedOverTooEarly,
  kMissingFence,
  kShuffleAsFence,
};
constexpr int kThreads = 64;

// y[i] = x[i - 1] + x[i] + x[i + 1], zeros outside.
__global__ void blur(const float* x, float* y, int n, Fault fault) {
  AMINET_DYNAMIC_SHARED(float, tile);  // [kThreads + 2]
  const int t = threadIdx.x, first = blockIdx.x * kThreads;
  const int size = kThreads + 2 + (fault == kSharedIndex);
  for (int i = t; i < size; i += kThreads) {
    const int at = first + i - 1;
    tile[i] = at >= 0 && at < n + (fault == kGlobalIndex) ? x[at] : 0.f;
  }
  if (fault == kDivergentBarrier && t % 2)
    __syncthreads();
  else if (fault != kMissingBarrier)
    __syncthreads();
  if (first + t < n) y[first + t] = tile[t] + tile[t + 1] + tile[t + 2];
}

__device__ float block_sum(float v, Fault fault) {
  AMINET_SHARED(float, of_warps, [kThreads / 32]);
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = v;
  __syncthreads();
  v = of_warps[0] + of_warps[1];
  if (fault != kReusedWithoutBarrier) __syncthreads();
  return v;
}

// y[0] = sum of x, y[1] = sum of its squares: each block adds those of its part.
__global__ void sums(const float* x, float* y, int n, Fault fault) {
  const int at = blockIdx.x * kThreads + threadIdx.x;
  const float v = at < n ? x[at] : 0.f;
  const float found[2] = {block_sum(v, fault), block_sum(v * v, fault)};
  if (threadIdx.x != 0) return;
  for (int i = 0; i < 2; ++i)
    if (fault == kAccumulatedByBlocks)
      y[i] += found[i];
    else
      atomicAdd(&y[i], found[i]);
}

// y = 2 x, four at a time.
__global__ void twice(const float* x, float* y, int n, Fault fault) {
  const int at = 4 * (blockIdx.x * kThreads + threadIdx.x) + (fault == kMisalignedVector);
  if (at + 4 <= n) {
    Vector<float, 4> v = load<4>(x + at);
    for (int i = 0; i < 4; ++i) v[i] *= 2;
    store(y + at, v);
  } else {
    for (int i = at; i < n; ++i) y[i] = 2 * x[i];
  }
}

// y[i] = x[i ^ 31] within a warp, through shared memory.
__global__ void mirrored(const float* x, float* y, int n, Fault fault) {
  AMINET_SHARED(float, mine, [kThreads]);
  const int t = threadIdx.x, at = blockIdx.x * kThreads + t;
  mine[t] = at < n ? x[at] : 0.f;
  if (fault == kShuffleAsFence)
    warp_sum(1.f);
  else if (fault != kMissingSyncwarp)
    __syncwarp();
  if (at < n) y[at] = mine[t ^ 31];
}

// y[i] = the sum of x[i], x[i + 4 kThreads], ... by copies that run one step ahead.
__global__ void piped(const float* x, float* y, int steps, Fault fault) {
  AMINET_SHARED(float, parts, [2][4 * kThreads]);
  const int t = threadIdx.x;
  float sums[4] = {};
  copy_async<16>(&parts[0][4 * t], x + 4 * t, true);
  commit_async();
  for (int step = 0; step < steps; ++step) {
    const float* next = x + 4 * ((step + 1) * kThreads + t);
    copy_async<16>(&parts[(step + 1) % 2][4 * t], next, step + 1 < steps);
    commit_async();
    if (fault != kMissingWait) wait_async<1>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) sums[i] += parts[step % 2][4 * (kThreads - 1 - t) + i];
    if (fault != kCopiedOverTooEarly) __syncthreads();
  }
  for (int i = 0; i < 4; ++i) y[4 * (kThreads - 1 - t) + i] = sums[i];
}

// y[0] = sum of x: by the block that comes last, which finds the others' parts in y[1...]; `count` starts at 0.
__global__ void by_last_block(const float* x, float* y, unsigned* count, int n, Fault fault) {
  AMINET_SHARED(bool, last, [1]);
  const int at = blockIdx.x * kThreads + threadIdx.x;
  const float part = block_sum(at < n ? x[at] : 0.f, kNone);
  if (threadIdx.x == 0) {
    y[1 + blockIdx.x] = part;
    if (fault != kMissingFence) __threadfence();
    last[0] = atomicAdd(count, 1u) == gridDim.x - 1;
    if (fault != kMissingFence) __threadfence();
  }
  __syncthreads();
  if (!last[0] || threadIdx.x != 0) return;
  float sum = 0.f;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += y[1 + i];
  y[0] = sum;
}

int blocks_of(int n, int each, Fault fault) { return fault == kSkippedTail ? n / each : ceil_div(n, each); }

// Each writes to y, which the caller has filled.
void run(int64_t kernel, const Tensor& x, Tensor y, Tensor count, int64_t number) {
  const OnDeviceOf on(x);
  const Fault fault = static_cast<Fault>(number);
  const int n = static_cast<int>(x.numel());
  const float* from = data_of<float>(x);
  float* to = room_of<float>(y);
  const int blocks = blocks_of(n, kThreads, fault), bytes = (kThreads + 2) * 4;
  if (kernel == 0) AMINET_LAUNCH(blur, blocks, kThreads, bytes, on.stream, from, to, n, fault);
  if (kernel == 1) AMINET_LAUNCH(sums, blocks, kThreads, 0, on.stream, from, to, n, fault);
  if (kernel == 2) AMINET_LAUNCH(twice, blocks_of(n, 4 * kThreads, fault), kThreads, 0, on.stream, from, to, n, fault);
  if (kernel == 3) AMINET_LAUNCH(mirrored, blocks, kThreads, 0, on.stream, from, to, n, fault);
  if (kernel == 4) AMINET_LAUNCH(piped, 1, kThreads, 0, on.stream, from, to, n / (4 * kThreads), fault);
  if (kernel == 5)
    AMINET_LAUNCH(by_last_block, blocks, kThreads, 0, on.stream, from, to, room_of<unsigned>(count), n, fault);
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_FRAGMENT(aminet_fast_emulated, m) {
  m.def("faulty(int kernel, Tensor x, Tensor(a!) y, Tensor(b!) count, int fault) -> ()");
}
AMINET_CUDA_LIBRARY(m) { m.impl("faulty", TORCH_BOX(&aminet::run)); }
