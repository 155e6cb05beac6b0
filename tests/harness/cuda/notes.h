// Put before a source (-include) whose launches are only to be told: kernels are not even compiled. counters.cpp is
// linked with it.
#pragma once

#include "counters.h"
// counters.h comes first: device.h includes the emulator.
#include "cuda/device.h"

#undef AMINET_LAUNCH
#define AMINET_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  ((void)(stream), emulated::begin_launch(#kernel, nullptr, grid, block, bytes), emulated::end_launch())
