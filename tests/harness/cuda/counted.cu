// A kernel of which every count is known, for tests of the counters (counters.h).
#include "cuda/async.h"
#include "cuda/mma.h"
#include "cuda/tensors.h"

namespace aminet {
namespace {

constexpr int kWarps = 2;

// Blocks of two warps. x [blocks, 64, 8], y [blocks, 64]
__global__ void counted(const __half* x, float* y, int passes) {
  AMINET_SHARED(__half, tile, [32 * kWarps][8]);
  const int thread = threadIdx.x, row = blockIdx.x * 32 * kWarps + thread;
  float sums[4] = {};
  copy_async<16>(tile[thread], x + row * 8, true);
  commit_async();
  wait_async<0>();
  __syncthreads();
  for (int pass = 0; pass < passes; ++pass) {
    uint32_t a[4], b[2] = {};
    load_matrices<4>(a, tile[thread]);
    mma<__half>(sums, a, b);
    mma<__half>(sums, a, b);
    const auto v = load<8>(x + row * 8);
    if (thread % 32 < 8) store<8>(tile[thread], v);
    __syncthreads();
  }
  y[row] = warp_sum(sums[0]);
}

void run(const Tensor& x, Tensor y, int64_t passes) {
  AMINET_LAUNCH(counted, static_cast<unsigned>(x.size(0)), 32 * kWarps, 0, nullptr, data_of<__half>(x), room_of<float>(y),
                static_cast<int>(passes));
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_FRAGMENT(aminet_fast_emulated, m) { m.def("counted(Tensor x, Tensor(a!) y, int passes) -> ()"); }
AMINET_CUDA_LIBRARY(m) { m.impl("counted", TORCH_BOX(&aminet::run)); }
