// Sums over a block in a fixed order, so that a step is bitwise repeatable: shuffles within a warp, shared memory
// between warps, no atomics on floating-point numbers.
#pragma once

#include <cuda_runtime.h>

#include "../step/tables.h"

namespace torchclip::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
// At least: what a compiler that saves registers for more has to spill costs more than the threads gain.
constexpr int kBlocksPerMultiprocessor = 2;
// Of the update pass: of so many small blocks some begin and some end while the others move data.
constexpr int kUpdateThreads = 128;
constexpr int kUpdateBlocksPerMultiprocessor = 4;
constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ int lane_in_warp() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_in_block() { return static_cast<int>(threadIdx.x) / kWarp; }

// The sums over a warp, in its first lane.
template <int kCount>
__device__ __forceinline__ void sum_over_warp(double (&values)[kCount]) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += __shfl_down_sync(kWholeWarp, values[i], distance);
  }
}

// From sums over warps to those over a block of `kLanes` threads, in thread 0. All threads must call it.
template <int kLanes, int kCount>
__device__ __forceinline__ void sum_over_warps(double (&values)[kCount]) {
  constexpr int kSums = kLanes / kWarp;
  __shared__ double sums[kCount][kSums];
  __syncthreads();  // an earlier call may still be reading
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (lane_in_warp() == 0) sums[i][warp_in_block()] = values[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = lane_in_warp() < kSums ? sums[i][lane_in_warp()] : 0.0;
  sum_over_warp(values);
}

// The sums over all threads of a block of `kLanes`, in thread 0. All threads must call it.
template <int kLanes = kThreads, int kCount>
__device__ __forceinline__ void sum_over_block(double (&values)[kCount]) {
  sum_over_warp(values);
  sum_over_warps<kLanes>(values);
}

// Those over the block or those over each warp, which all threads of the block must agree on.
template <int kCount>
__device__ __forceinline__ void sum_over(bool whole_block, double (&values)[kCount]) {
  sum_over_warp(values);
  if (!whole_block) return;
  sum_over_warps<kThreads>(values);
}

// True in the block that comes here last; it sees what all the others have written before. All threads must call it.
__device__ __forceinline__ bool is_last_block(uint32_t* blocks_done, uint32_t blocks) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // of what the whole block wrote before the barrier
    is_last = atomicInc(blocks_done, blocks - 1) == blocks - 1;
  }
  __syncthreads();
  if (is_last) __threadfence();
  return is_last;
}

}  // namespace torchclip::cuda
