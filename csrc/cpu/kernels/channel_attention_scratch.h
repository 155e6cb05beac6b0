// Memory for the buffers of channel_attention's passes.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Room for a thread's buffers, on cache lines. Kept from call to call unless it is large: fresh memory costs more than
// the work on it at the small sizes.
template <typename Acc>
class Scratch {
 public:
  explicit Scratch(int64_t elements) {
    if (elements > held_.size) held_ = {Memory(allocate(elements)), elements};
    next_ = held_.memory.get();
  }
  ~Scratch() {
    if (held_.size * static_cast<int64_t>(sizeof(Acc)) > kKeptBytes) held_ = {};
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Acc* take(int64_t elements) { return std::exchange(next_, next_ + elements); }

 private:
  static constexpr int64_t kKeptBytes = 8 << 20;
  struct Free {
    void operator()(Acc* memory) const { ::operator delete(memory, std::align_val_t(64)); }
  };
  using Memory = std::unique_ptr<Acc, Free>;
  struct Held {
    Memory memory;
    int64_t size = 0;
  };
  static Acc* allocate(int64_t elements) {
    return static_cast<Acc*>(::operator new(elements * sizeof(Acc), std::align_val_t(64)));
  }
  static thread_local inline Held held_;
  Acc* next_;
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
