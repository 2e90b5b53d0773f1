// A small CUDA for the host compiler: the .cu files of csrc/cuda run on the CPU, where sanitizers see every access.
//
//   g++ -std=c++20 -O1 -g -fvisibility=hidden -fno-strict-aliasing -ffp-contract=off -Wno-unknown-pragmas
//       -Itests/support/cuda_emulator/include -Icsrc -x c++ kernels.cu -x none tests/support/cuda_emulator/*.cpp
//
// A launch runs to its end before it returns. Every thread is a fiber that runs until it meets a barrier or a warp
// operation; which thread and which block comes next is set by emulator/control.h. Not here: memory order between
// threads (but a count of blocks without its fences is a fault), spinning on memory (it hangs), textures, dynamic
// parallelism.
#pragma once

#ifndef TORCHCLIP_CUDA_EMULATOR
#define TORCHCLIP_CUDA_EMULATOR 1
#endif
#define __CUDA_ARCH_LIST__ 800, 900

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
// Thread-local, and every launch lays the module's thread-local storage aside and fills it with poison for each block:
// g++ ignores the section attribute in templates, so there is no other way to have these variables in one place.
#define __shared__ static thread_local
#define __grid_constant__

#include "emulator/device.h"
#include "emulator/host.h"
#include "emulator/launch.h"
#include "emulator/types.h"
#include "emulator/warp.h"
