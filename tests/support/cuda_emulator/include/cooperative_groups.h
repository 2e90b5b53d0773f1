// The part of cooperative groups that kernels here use: the barrier of the whole grid.
#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {

struct grid_group {
  bool is_valid() const { return emulator::is_cooperative(); }
  void sync(std::source_location site = std::source_location::current()) const { emulator::grid_barrier(site); }
  unsigned long long num_threads() const {
    return static_cast<unsigned long long>(gridDim.x) * gridDim.y * gridDim.z * blockDim.x * blockDim.y * blockDim.z;
  }
  unsigned long long thread_rank() const {
    const unsigned long long block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    return block * (blockDim.x * blockDim.y * blockDim.z) + thread;
  }
};

inline grid_group this_grid() { return {}; }

}  // namespace cooperative_groups
