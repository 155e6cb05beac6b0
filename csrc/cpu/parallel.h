// Splitting work over torch's threads. With -DAMINET_STD_THREADS the threads are started and joined here instead, where
// ThreadSanitizer can follow them: it knows nothing of the barriers inside torch's OpenMP.
#pragma once

#include <cstdint>

#include "cpu/flush_denormals.h"

#ifdef AMINET_STD_THREADS
#include <algorithm>
#include <thread>
#include <vector>
#else
#include <torch/csrc/stable/ops.h>
#endif

namespace aminet {

// run(first, last) over disjoint parts of [begin, end); parts are not smaller than grain, unless all is.
template <typename Run>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Run& run) {
  const auto flushing = [&run](int64_t first, int64_t last) {
    const FlushDenormals flush;
    run(first, last);
  };
#ifdef AMINET_STD_THREADS
  const int64_t count = end - begin, parts = std::clamp<int64_t>(count / std::max<int64_t>(1, grain), 1, 4);
  std::vector<std::thread> threads;
  for (int64_t part = 0; part < parts; ++part)
    threads.emplace_back([&, part] { flushing(begin + count * part / parts, begin + count * (part + 1) / parts); });
  for (std::thread& thread : threads) thread.join();
#else
  torch::stable::parallel_for(begin, end, grain, flushing);
#endif
}

}  // namespace aminet
