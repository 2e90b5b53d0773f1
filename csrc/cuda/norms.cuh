// The norm passes: a persistent grid whose blocks take chunk after chunk, and the block that is last works out what
// follows from the sums.
#pragma once

#include "finish_rule.cuh"
#include "finish_step.cuh"
#include "meters.cuh"

namespace torchclip::cuda {

// The update pass takes the chunks in the reverse order: those that come last here stay in the cache for it.
__device__ __forceinline__ CachePolicy policy_of_chunk(const PassArguments& arguments, int64_t index) {
  return index >= arguments.first_kept ? CachePolicy::keep() : CachePolicy::as_usual();
}

// How many blocks of the launch measure. Where there are several, the last of them makes the rows meanwhile.
__device__ __forceinline__ uint32_t measuring_blocks(bool makes_rows) {
  return gridDim.x > 1 && makes_rows ? gridDim.x - 1 : gridDim.x;
}

// The partial sums of every chunk.
template <class MakeMeter>
__device__ __forceinline__ void measure_chunks(const PassArguments& arguments, uint32_t blocks,
                                               const MakeMeter& make_meter) {
  if (blockIdx.x >= blocks) return;
#pragma unroll 1
  for (int64_t index = blockIdx.x; index < arguments.chunk_count; index += blocks) {
    const DeviceChunk chunk = arguments.chunks[index];
    auto meter = make_meter(chunk.tensor, policy_of_chunk(arguments, index));
    for_each_element(meter, chunk.begin, chunk.begin + chunk.count, static_cast<int>(threadIdx.x), kThreads);
    double sums[2];
    meter.take_sums(sums);
    sum_over_block(sums);
    if (threadIdx.x == 0) arguments.partials[chunk.partial] = Partial{sums[0], sums[1], 0.0};
  }
}

// `Functor`: see make_rows.
template <class Functor, class T>
__device__ __forceinline__ void measure_gradients(const PassArguments& arguments, const FinishArguments& finish) {
  const uint32_t blocks = measuring_blocks(finish.makes_rows != 0);
  if (finish.makes_rows != 0 && blockIdx.x == gridDim.x - 1) make_rows<Functor>(finish);
  const auto scale = static_cast<ComputeType<T>>(inverse_scale(finish));
  measure_chunks(arguments, blocks, [&](int32_t tensor, CachePolicy policy) {
    return GradientMeter<T, false>(arguments, tensor, policy, scale);
  });
}

template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__device__ __forceinline__ void measure_directions(const PassArguments& arguments) {
  measure_chunks(arguments, gridDim.x, [&](int32_t tensor, CachePolicy policy) {
    return DirectionMeter<Functor, Slots, Stages, T, S>(arguments, tensor, policy);
  });
}

// The norms of the scaled gradients, for clip policies.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    raw_norm_kernel(const __grid_constant__ PassArguments arguments, const __grid_constant__ FinishArguments finish) {
  let_next_begin();
  measure_gradients<void, T>(arguments, finish);
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_step<false>(finish);
}

// The norms that a rule takes itself.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    direction_norm_kernel(const __grid_constant__ PassArguments arguments,
                          const __grid_constant__ FinishRuleArguments finish) {
  let_next_begin();
  measure_directions<Functor, Slots, Stages, T, S>(arguments);
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_rule<false>(finish);
}

}  // namespace torchclip::cuda
