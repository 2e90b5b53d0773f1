// Sums over a block in a fixed order, so that a step is bitwise repeatable: shuffles within a warp, shared memory
// between warps, no atomics on floating-point numbers.
#pragma once

#include <cuda_runtime.h>

#include "../tables.h"

namespace torchclip::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
// At least: what a compiler that saves registers for more has to spill costs more than the threads gain.
constexpr int kBlocksPerMultiprocessor = 2;
constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ double sum_over_warp(double value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_down_sync(kWholeWarp, value, distance);
  return value;
}

// The sum over all threads of a block of kThreads, in thread 0. All threads must call it.
__device__ __forceinline__ double sum_over_block(double value) {
  __shared__ double sums[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  value = sum_over_warp(value);
  __syncthreads();  // an earlier call may still be reading
  if (lane == 0) sums[warp] = value;
  __syncthreads();
  value = lane < kWarps ? sums[lane] : 0.0;
  return sum_over_warp(value);
}

// True in the block that comes here last; it sees what all the others have written before. All threads must call it.
__device__ __forceinline__ bool is_last_block(uint32_t* blocks_done, uint32_t blocks) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicInc(blocks_done, blocks - 1) == blocks - 1;
  __syncthreads();
  if (is_last) __threadfence();
  return is_last;
}

}  // namespace torchclip::cuda
