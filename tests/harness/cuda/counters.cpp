// The counters of counters.h, and a Python module of them: how many blocks of a launch run, and what was counted.
//
//   sample(blocks, whole)  from now on so many blocks of a launch run, 0: none; of kernels whose name has one of the
//                          words in `whole` all of them do, because others look at what they make
//   take()                 the launches since the last time, as dictionaries
#include "counters.h"

#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "fibers.h"

namespace emulated {
namespace {

constexpr size_t kSector = 32;  // bytes that a GPU moves at least
enum class Space : unsigned char { kNone, kGlobal, kShared };
const char* const kEvents[] = {"load", "store", "copy", "matrices", "product", "product_tf32", "barrier", "shuffle", "atomic"};
const char* const kSpaces[] = {"", "global", "shared"};

struct Site {
  uintptr_t place;
  Event event;
  Space space;
  unsigned bytes;
  uint64_t warps = 0, threads = 0;  // executions
  std::vector<uint32_t> now = std::vector<uint32_t>(kMostThreads);  // of this block, by thread
};

// Memory of a tensor, and which sectors of it this block has touched.
struct Range {
  size_t bytes;
  std::vector<bool> read, written;
  size_t sectors_read = 0, sectors_written = 0;  // of all blocks that ran
};

struct Launch {
  std::string name;
  uintptr_t kernel;
  dim3 grid, block;
  size_t dynamic_bytes, static_bytes = 0;
  unsigned sampled = 0;
  std::vector<Site> sites;
  std::map<uintptr_t, Range> ranges;
};

unsigned blocks_to_run = 1;
std::vector<std::string> run_whole;
bool on = false, whole = false, last_was_sampled = false;
std::map<uintptr_t, size_t> tensors;
std::vector<Launch> launches;
std::unordered_map<uint64_t, size_t> site_of;
uintptr_t last_begin = 1, last_end = 0;  // of the tensor that was touched last
Range* last = nullptr;

// Adds what the block that ran last has counted.
void finish_block() {
  if (!last_was_sampled) return;
  last_was_sampled = false;
  Launch& launch = launches.back();
  ++launch.sampled;
  launch.static_bytes = std::max(launch.static_bytes, block->static_bytes);
  for (Site& site : launch.sites)
    for (unsigned warp = 0; warp * kWarp < block->threads; ++warp) {
      uint32_t* lanes = &site.now[warp * kWarp];
      site.warps += *std::max_element(lanes, lanes + kWarp);  // lanes that stay away do not save the instruction
      for (unsigned lane = 0; lane < kWarp; ++lane) site.threads += lanes[lane];
      std::fill(lanes, lanes + kWarp, 0);
    }
  for (auto& [begin, range] : launch.ranges) {
    range.sectors_read += std::count(range.read.begin(), range.read.end(), true);
    range.sectors_written += std::count(range.written.begin(), range.written.end(), true);
    std::fill(range.read.begin(), range.read.end(), false);
    std::fill(range.written.begin(), range.written.end(), false);
  }
}

// Marks what is touched of a tensor's memory; whether it is of one.
bool touched(uintptr_t at, unsigned bytes, bool writes) {
  if (at < last_begin || at >= last_end) {
    auto found = tensors.upper_bound(at);
    if (found == tensors.begin()) return false;
    --found;
    if (at >= found->first + found->second) return false;
    Range& range = launches.back().ranges[found->first];
    if (range.read.empty()) {
      range.bytes = found->second;
      range.read.resize(found->second / kSector + 2);
      range.written.resize(found->second / kSector + 2);
    }
    last_begin = found->first, last_end = found->first + found->second, last = &range;
  }
  std::vector<bool>& sectors = writes ? last->written : last->read;
  const size_t from = (at - last_begin) / kSector, to = (at + bytes - 1 - last_begin) / kSector;
  for (size_t sector = from; sector <= to; ++sector) sectors[sector] = true;
  return true;
}

void add(Event event, const void* at, unsigned bytes, const void* place) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  Space space = Space::kNone;
  if (event == Event::kCopy) {
    touched(address, bytes, false);  // or it is shared memory: of zeros
  } else if (at) {
    const auto shared = reinterpret_cast<uintptr_t>(block->shared);
    if (address >= shared && address < shared + kSharedRoom)
      space = Space::kShared;
    else if (touched(address, bytes, event == Event::kStore || event == Event::kAtomic))
      space = Space::kGlobal;
    else
      return;  // registers, arguments, the emulator
  }
  const uint64_t key = reinterpret_cast<uintptr_t>(place) << 12 | uint64_t(event) << 8 | uint64_t(space) << 6 | (bytes & 63);
  std::vector<Site>& sites = launches.back().sites;
  const auto [found, fresh] = site_of.try_emplace(key, sites.size());
  if (fresh) sites.push_back({reinterpret_cast<uintptr_t>(place), event, space, bytes});
  ++sites[found->second].now[fiber->number];
}

void access(Event event, const void* at, unsigned bytes, const void* place) {
  if (!on || !fiber) return;
  on = false;
  add(event, at, bytes, place);
  on = true;
}

}  // namespace

// That launches may touch its memory: from its storage's begin on.
void remember_tensor(AtenTensorHandle tensor, const void* data) {
  int64_t offset = 0, bytes = 0;
  int32_t dtype = 0;
  aoti_torch_get_storage_offset(tensor, &offset);
  aoti_torch_get_storage_size(tensor, &bytes);
  aoti_torch_get_dtype(tensor, &dtype);
  const auto begin = reinterpret_cast<uintptr_t>(data) - offset * aoti_torch_dtype_element_size(dtype);
  if (bytes > 0) tensors[begin] = size_t(bytes);
}

void count(Event event, const void* at, unsigned bytes) { access(event, at, bytes, __builtin_return_address(0)); }

bool counting(bool now) {
  const bool before = on;
  on = now;
  return before;
}

void begin_launch(const char* name, const void* kernel, dim3 grid, dim3 size, size_t dynamic_bytes) {
  launches.push_back({name, reinterpret_cast<uintptr_t>(kernel), grid, size, dynamic_bytes});
  site_of.clear();
  last_begin = 1, last_end = 0;
  whole = std::any_of(run_whole.begin(), run_whole.end(),
                      [&](const std::string& word) { return launches.back().name.find(word) != std::string::npos; });
  last_was_sampled = on = false;
}

// Whether a block runs: spread over the grid, on no even stride, because kernels look at a number's remainder.
bool chosen(size_t number, size_t blocks) {
  finish_block();
  const size_t wanted = std::min<size_t>(blocks_to_run, blocks);
  bool found = false;
  for (size_t n = 0; n < wanted; ++n)
    found |= number == (wanted == blocks ? n : (n * blocks / wanted + 7 * n + blocks / 5) % blocks);
  last_was_sampled = on = found;
  return found || whole;
}

void end_launch() {
  finish_block();
  on = false;
}

}  // namespace emulated

// What -fsanitize=thread calls.
#define HOOK(bytes)                                                                                           \
  void __tsan_read##bytes(void* at) {                                                                         \
    emulated::access(emulated::Event::kLoad, at, bytes, __builtin_return_address(0));                         \
  }                                                                                                           \
  void __tsan_write##bytes(void* at) {                                                                        \
    emulated::access(emulated::Event::kStore, at, bytes, __builtin_return_address(0));                        \
  }
#define ATOMICS(bits, type)                                                                                   \
  type __tsan_atomic##bits##_load(const type* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }      \
  void __tsan_atomic##bits##_store(type* at, type v, int) { __atomic_store_n(at, v, __ATOMIC_SEQ_CST); }      \
  type __tsan_atomic##bits##_fetch_add(type* at, type v, int) { return __atomic_fetch_add(at, v, __ATOMIC_SEQ_CST); } \
  type __tsan_atomic##bits##_fetch_sub(type* at, type v, int) { return __atomic_fetch_sub(at, v, __ATOMIC_SEQ_CST); } \
  type __tsan_atomic##bits##_exchange(type* at, type v, int) { return __atomic_exchange_n(at, v, __ATOMIC_SEQ_CST); } \
  int __tsan_atomic##bits##_compare_exchange_strong(type* at, type* was, type v, int, int) {                  \
    return __atomic_compare_exchange_n(at, was, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                \
  }                                                                                                           \
  int __tsan_atomic##bits##_compare_exchange_weak(type* at, type* was, type v, int, int) {                    \
    return __atomic_compare_exchange_n(at, was, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
  }                                                                                                           \
  type __tsan_atomic##bits##_compare_exchange_val(type* at, type was, type v, int, int) {                     \
    __atomic_compare_exchange_n(at, &was, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                      \
    return was;                                                                                               \
  }
extern "C" {
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
void __tsan_read_range(void* at, size_t bytes) {
  emulated::access(emulated::Event::kLoad, at, unsigned(bytes), __builtin_return_address(0));
}
void __tsan_write_range(void* at, size_t bytes) {
  emulated::access(emulated::Event::kStore, at, unsigned(bytes), __builtin_return_address(0));
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// The linker is told (--wrap) to let every look at a tensor's data go through here: that is the memory of a GPU.
#define LOOK(name, pointer)                                              \
  AOTITorchError __real_##name(AtenTensorHandle tensor, pointer* data);  \
  AOTITorchError __wrap_##name(AtenTensorHandle tensor, pointer* data) { \
    const AOTITorchError error = __real_##name(tensor, data);            \
    emulated::remember_tensor(tensor, *data);                            \
    return error;                                                        \
  }
LOOK(aoti_torch_get_data_ptr, void*)
LOOK(torch_get_mutable_data_ptr, void*)
LOOK(torch_get_const_data_ptr, const void*)
}

namespace {

pybind11::dict described(const emulated::Launch& launch, uintptr_t base) {
  using namespace pybind11::literals;
  pybind11::list sites, ranges;
  for (const emulated::Site& site : launch.sites)
    if (site.threads)
      sites.append(pybind11::dict("place"_a = site.place - base, "event"_a = emulated::kEvents[int(site.event)],
                                  "space"_a = emulated::kSpaces[int(site.space)], "bytes"_a = site.bytes,
                                  "warps"_a = site.warps, "threads"_a = site.threads));
  for (const auto& [begin, range] : launch.ranges)
    ranges.append(pybind11::dict("bytes"_a = range.bytes, "read"_a = range.sectors_read * emulated::kSector,
                                 "written"_a = range.sectors_written * emulated::kSector));
  const auto sizes = [](dim3 of) { return pybind11::make_tuple(of.x, of.y, of.z); };
  return pybind11::dict("name"_a = launch.name, "kernel"_a = launch.kernel - base, "grid"_a = sizes(launch.grid),
                        "block"_a = sizes(launch.block), "dynamic_bytes"_a = launch.dynamic_bytes,
                        "static_bytes"_a = launch.static_bytes, "sampled"_a = launch.sampled, "sites"_a = sites,
                        "ranges"_a = ranges);
}

}  // namespace

PYBIND11_MODULE(counters, m) {
  m.doc() = "What emulated kernels do, counted by place in the code.";
  m.def(
      "sample",
      [](unsigned blocks, std::vector<std::string> whole) {
        emulated::blocks_to_run = blocks;
        emulated::run_whole = std::move(whole);
      },
      pybind11::arg("blocks"), pybind11::arg("whole") = std::vector<std::string>{},
      "How many blocks of a launch run and are counted; of kernels named by one of the words, the others run too.");
  m.def(
      "take",
      [] {
        Dl_info about{};
        dladdr(reinterpret_cast<const void*>(&emulated::begin_launch), &about);
        pybind11::list found;
        for (const emulated::Launch& launch : emulated::launches)
          found.append(described(launch, reinterpret_cast<uintptr_t>(about.dli_fbase)));
        emulated::launches.clear();
        emulated::tensors.clear();
        return found;
      },
      "The launches since the last time; places and kernels are offsets in the library.");
}
