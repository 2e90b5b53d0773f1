// Launching a norm pass.
#pragma once

#include <algorithm>

#include "launch.h"
#include "passes.h"
#include "reduce.cuh"

namespace torchclip::cuda {

// As many blocks as the device holds at once, but no more than there are chunks.
template <auto kernel>
uint32_t resident_blocks(int64_t chunk_count) {
  if (chunk_count == 0) return 0;
  int device = 0, multiprocessors = 0, blocks = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, 0),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return static_cast<uint32_t>(std::min<int64_t>(static_cast<int64_t>(multiprocessors) * blocks, chunk_count));
}

template <auto norm_kernel, class Finish>
void launch_norm(const PassArguments& arguments, const Finish& finish, uint32_t blocks, void* stream) {
  if (blocks == 0 || arguments.chunk_count == 0) return;
  TORCHCLIP_LAUNCH(norm_kernel, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), arguments, finish);
}

template <auto kernel, class Finish>
constexpr auto norm_launch() {
  return Launch<void (*)(const PassArguments&, const Finish&, uint32_t, void*)>{launch_norm<kernel, Finish>,
                                                                                resident_blocks<kernel>};
}

}  // namespace torchclip::cuda
