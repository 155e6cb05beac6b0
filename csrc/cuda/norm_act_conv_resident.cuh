// windows_kernel where all weights fit into shared memory: a block loads them once, and makes `each` tiles.
//
//     shared memory   window, and in its place what is needed to finish
//                     weights [octets of the depth, in stages][8][columns of the block, an odd number of octets]
//                     entries
#pragma once

#include "cuda/norm_act_conv_windows.cuh"

namespace aminet::nac {

template <typename S>
__host__ __device__ int64_t resident_room(const Window& w) {
  return std::max<int64_t>(static_cast<int64_t>(w.units()) * kUnitBytes, S::room_bytes);
}

// Of a call without phases, all of whose channels are in the window.
template <typename S>
int64_t resident_bytes(const Window& w, const Cut& cut) {
  const int64_t of_weights = cut.entries / S::stage * static_cast<int64_t>(S::stage_bytes);
  return resident_room<S>(w) + of_weights + cut.entries * static_cast<int64_t>(sizeof(uint32_t));
}

// Blocks: `each` tiles of all images; groups of channels.
template <typename P, typename S, int BLOCKS, typename Source, typename Finish>
__global__ void __launch_bounds__(S::threads, BLOCKS)
    resident_kernel(Source source, const Data<P>* weights, Finish finish, Geometry g, Window w, Cut cut, int tiles,
                    int each) {
  using T = Data<P>;
  AMINET_DYNAMIC_SHARED(unsigned char, window);
  T* held = reinterpret_cast<T*>(window + resident_room<S>(w));
  uint32_t* entries = reinterpret_cast<uint32_t*>(held + cut.entries * kOctet * S::row);
  const int octets = g.rows.taps_of(0) * g.columns.taps_of(0) * cut.octets;
#pragma unroll 1
  for (int stage = 0; stage < cut.entries; stage += S::stage)
    load_weights<false, S>(held + stage * kOctet * S::row, weights, nullptr, cut, 0, stage * kOctet, octets * kOctet);
  commit_async();
  make_entries(entries, nullptr, g, w, cut, 0, 0, cut.entries, kOctetUnits<T>);
  typename Finish::Sums sums = {};
  Place at = place_of(g, blockIdx.x * each, S::height, S::width);
#pragma unroll 1
  for (int left = min(each, tiles - static_cast<int>(blockIdx.x) * each); left > 0; --left) {
    source.make(window, g, w, at, 0, cut.octets, true, S::height, S::width);
    wait_async<0>();
    __syncthreads();
    Products<P, S> products;
    products.clear();
    products.stage(window, held, entries, ceil_div(octets, kDeep<P>), g, w, at, 0,
                   w.slots && has_folds(g, at, S::height, S::width));
    __syncthreads();
    finish.template take<P, S>(products, sums, g, at, 0, 0, window);
    __syncthreads();
    go_on(at, g, S::height, S::width);
  }
  finish.template end<S>(sums, window);
}

}  // namespace aminet::nac
