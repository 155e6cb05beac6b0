#include "cpu/capability.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace aminet {
namespace {

Capability of_processor() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return Capability::avx512;
  if (avx2) return Capability::avx2;
#endif
  return Capability::portable;
}

Capability decide() {
  const Capability best = of_processor();
  const char* wanted = std::getenv("AMINET_FAST_CPU_CAPABILITY");
  if (wanted == nullptr) return best;
  for (Capability lower : {Capability::portable, Capability::avx2})
    if (lower < best && std::strcmp(wanted, capability_name(lower)) == 0) return lower;
  return best;
}

}  // namespace

const char* capability_name(Capability capability) {
  switch (capability) {
    case Capability::avx512: return "avx512";
    case Capability::avx2: return "avx2";
    default: return "portable";
  }
}

Capability capability() {
  static const Capability decided = decide();
  return decided;
}

}  // namespace aminet
