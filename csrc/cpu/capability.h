// Which copy of csrc/cpu/kernels runs. setup.py compiles that folder once per capability, with its own -m flags,
// into the namespaces portable, avx2 and avx512 (the last two on x86-64 only); with AMINET_ONLY_CAPABILITY into one.
#pragma once

namespace aminet {

enum class Capability { portable, avx2, avx512 };

// The best this processor and the copies allow; AMINET_FAST_CPU_CAPABILITY lowers it. Decided once.
Capability capability();

const char* capability_name(Capability capability);

#if defined(AMINET_ONLY_CAPABILITY)
#define AMINET_FOR_EACH_CAPABILITY(X) X(AMINET_ONLY_CAPABILITY)
#define AMINET_PICK(name) (::aminet::AMINET_ONLY_CAPABILITY::name)
#elif defined(__x86_64__)
#define AMINET_FOR_EACH_CAPABILITY(X) X(portable) X(avx2) X(avx512)
// Kernels = a struct of function pointers, defined once per capability as `<capability>::name`.
#define AMINET_PICK(name)                                                        \
  (::aminet::capability() == ::aminet::Capability::avx512 ? ::aminet::avx512::name \
   : ::aminet::capability() == ::aminet::Capability::avx2 ? ::aminet::avx2::name   \
                                                          : ::aminet::portable::name)
#else
#define AMINET_FOR_EACH_CAPABILITY(X) X(portable)
#define AMINET_PICK(name) (::aminet::portable::name)
#endif

}  // namespace aminet
