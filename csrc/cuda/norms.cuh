// The norm passes: a persistent grid whose blocks take chunk after chunk, and the block that is last works out what
// follows from the sums.
#pragma once

#include "finish_rule.cuh"
#include "finish_step.cuh"
#include "meters.cuh"

namespace torchclip::cuda {

// The partial sums of every chunk.
template <class MakeMeter>
__device__ __forceinline__ void measure_chunks(const PassArguments& arguments, const MakeMeter& make_meter) {
#pragma unroll 1
  for (int64_t index = blockIdx.x; index < arguments.chunk_count; index += gridDim.x) {
    const DeviceChunk chunk = arguments.chunks[index];
    auto meter = make_meter(chunk.tensor);
    for_each_element(meter, chunk.begin, chunk.begin + chunk.count, static_cast<int>(threadIdx.x), kThreads);
    double sums[2];
    meter.take_sums(sums);
    sum_over_block(sums);
    if (threadIdx.x == 0) arguments.partials[chunk.partial] = Partial{sums[0], sums[1], 0.0};
  }
}

template <class T>
__device__ __forceinline__ void measure_gradients(const PassArguments& arguments, const FinishArguments& finish) {
  const auto scale = static_cast<ComputeType<T>>(inverse_scale(finish));
  measure_chunks(arguments, [&](int32_t tensor) { return GradientMeter<T, false>(arguments, tensor, scale); });
}

template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__device__ __forceinline__ void measure_directions(const PassArguments& arguments) {
  measure_chunks(arguments,
                 [&](int32_t tensor) { return DirectionMeter<Functor, Slots, Stages, T, S>(arguments, tensor); });
}

// The norms of the scaled gradients, for clip policies.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    raw_norm_kernel(const __grid_constant__ PassArguments arguments, const __grid_constant__ FinishArguments finish) {
  measure_gradients<T>(arguments, finish);
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_step<void, false>(finish);
}

// The norms that a rule takes itself.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    direction_norm_kernel(const __grid_constant__ PassArguments arguments,
                          const __grid_constant__ FinishRuleArguments finish) {
  measure_directions<Functor, Slots, Stages, T, S>(arguments);
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_rule<false>(finish);
}

}  // namespace torchclip::cuda
