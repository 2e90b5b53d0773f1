// The passes over chunks: a persistent grid whose blocks take chunk after chunk.
#pragma once

#include "../coefficients.h"
#include "../rules/registry.h"
#include "device_tables.h"
#include "draws.cuh"
#include "finish.cuh"
#include "reduce.cuh"
#include "vector.cuh"

namespace torchclip::cuda {

// The operands of a chunk, with their types.
template <class Functor, unsigned Slots, class T, class S>
struct ChunkOperands {
  using C = ComputeType<T>;
  T* parameter;
  const T* gradient;
  S* state[Functor::kSlots];
  C* slow;

  __device__ ChunkOperands(const DeviceTensor& tensor, int64_t begin)
      : parameter(static_cast<T*>(tensor.pointer[kParameter]) + begin),
        gradient(static_cast<const T*>(tensor.pointer[kGradient]) + begin),
        slow(static_cast<C*>(tensor.pointer[kSlow]) + begin) {
#pragma unroll
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      state[slot] = static_cast<S*>(tensor.pointer[kState0 + slot]) + begin;
  }
};

// Updates `kCount` elements from number i of the chunk on; returns the exact zeros among them. One element is read and
// written by itself, several by 16 bytes.
template <class Functor, unsigned Slots, unsigned Stages, int kCount, class T, class S>
__device__ __forceinline__ int update_elements(const ChunkOperands<Functor, Slots, T, S>& operands,
                                               const PipelineCoefficients<ComputeType<T>>& pipeline,
                                               const typename Functor::template Coefficients<ComputeType<T>>& rule,
                                               const PassArguments& arguments, ThreadDraws<Stages>& draws,
                                               int64_t first_element, int64_t i) {
  using C = ComputeType<T>;
  C parameter[kCount] = {}, gradient[kCount], state[Functor::kSlots][kCount] = {};
  const auto read = [&](const auto* from, C(&to)[kCount]) {
    if constexpr (kCount == 1) {
      to[0] = load(*from);
    } else {
      read_vector(from, to);
    }
  };
  read(operands.gradient + i, gradient);
  if constexpr (kNeedsParameter<Functor, Stages>) read(operands.parameter + i, parameter);
#pragma unroll
  for (int slot = 0; slot < Functor::kSlots; ++slot)
    if ((Slots >> slot & 1u) != 0) read(operands.state[slot] + i, state[slot]);
  int zeros = 0;
#pragma unroll
  for (int lane = 0; lane < kCount; ++lane) {
    C own[Functor::kSlots];
#pragma unroll
    for (int slot = 0; slot < Functor::kSlots; ++slot) own[slot] = state[slot][lane];
    parameter[lane] = update<Functor, Slots, Stages>(pipeline, rule, parameter[lane], gradient[lane],
                                                     draws.at(first_element + i + lane), own);
#pragma unroll
    for (int slot = 0; slot < Functor::kSlots; ++slot) state[slot][lane] = own[slot];
    if constexpr (Functor::kCountsZeros) zeros += load(store<T>(parameter[lane])) == C(0);
  }
  const auto write = [&](auto* to, const C(&from)[kCount]) {
    if constexpr (kCount == 1) {
      using Stored = std::remove_reference_t<decltype(*to)>;
      *to = store<Stored>(from[0]);
    } else {
      write_vector(to, from, arguments.streams != 0);
    }
  };
  if (arguments.extras.synchronises) {
    C slow[kCount];
    read(operands.slow + i, slow);
#pragma unroll
    for (int lane = 0; lane < kCount; ++lane)
      parameter[lane] = slow[lane] =
          synchronise(slow[lane], load(store<T>(parameter[lane])), static_cast<C>(arguments.extras.lookahead_alpha));
    write(operands.slow + i, slow);
  }
  write(operands.parameter + i, parameter);
#pragma unroll
  for (int slot = 0; slot < Functor::kSlots; ++slot)
    if ((Slots >> slot & 1u) != 0) write(operands.state[slot] + i, state[slot]);
  return zeros;
}

// The update pass. It goes through the chunks in the reverse order of the norm pass: what that pass has read last is
// still in the second-level cache.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    update_kernel(const __grid_constant__ PassArguments arguments) {
  using C = ComputeType<T>;
  if (arguments.skip != nullptr && *arguments.skip != 0) return;
  for (int64_t index = blockIdx.x; index < arguments.chunk_count; index += gridDim.x) {
    const int64_t place = arguments.chunk_count - 1 - index;
    const DeviceChunk chunk = arguments.chunks[place];
    const DeviceTensor& tensor = arguments.tensors[chunk.tensor];
    const Row& row = arguments.rows[tensor.row];
    const auto pipeline = narrow<C>(row.pipeline);
    const auto rule = narrow_rule<Functor, C>(row);
    const ChunkOperands<Functor, Slots, T, S> operands(tensor, chunk.begin);
    ThreadDraws<Stages> draws(arguments.extras, arguments.stages, tensor.member);
    int zeros = 0;
    for_each_element<kWidth<T>>(
        chunk.count, tensor.head,
        [&](int64_t i) {
          zeros +=
              update_elements<Functor, Slots, Stages, 1>(operands, pipeline, rule, arguments, draws, chunk.begin, i);
        },
        [&](int64_t i) {
          zeros += update_elements<Functor, Slots, Stages, kWidth<T>>(operands, pipeline, rule, arguments, draws,
                                                                      chunk.begin, i);
        });
    if constexpr (Functor::kCountsZeros) {
      const double total = sum_over_block(static_cast<double>(zeros));
      if (threadIdx.x == 0) arguments.zeros[place] = static_cast<int64_t>(total);
    }
  }
}

// The norms of the scaled gradients, for clip policies; the block that is last works out the factors.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    raw_norm_kernel(const __grid_constant__ PassArguments arguments, const __grid_constant__ FinishArguments finish) {
  using C = ComputeType<T>;
  for (int64_t index = blockIdx.x; index < arguments.chunk_count; index += gridDim.x) {
    const DeviceChunk chunk = arguments.chunks[index];
    const DeviceTensor& tensor = arguments.tensors[chunk.tensor];
    const T* const gradient = static_cast<const T*>(tensor.pointer[kGradient]) + chunk.begin;
    // GradScaler's scale is undone before squaring: the squares of a scaled gradient may overflow.
    const C scale = static_cast<C>(arguments.rows[tensor.row].pipeline.gradient_scale * inverse_scale(finish));
    C sum = 0;
    for_each_element<kWidth<T>>(
        chunk.count, tensor.head, [&](int64_t i) { sum += square(load(gradient[i]) * scale); },
        [&](int64_t i) {
          C values[kWidth<T>];
          read_vector(gradient + i, values);
#pragma unroll
          for (int lane = 0; lane < kWidth<T>; ++lane) sum += square(values[lane] * scale);
        });
    const double total = sum_over_block(static_cast<double>(sum));
    if (threadIdx.x == 0) arguments.partials[index] = Partial{total, 0.0, 0.0};
  }
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_step(finish);
}

// The norms that a rule takes itself: of the gradient as the rule sees it, and of its direction. The state is advanced
// in registers and not written.
template <unsigned Slots, unsigned Stages, class T, class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    direction_norm_kernel(const __grid_constant__ PassArguments arguments,
                          const __grid_constant__ FinishRuleArguments finish) {
  using C = ComputeType<T>;
  for (int64_t index = blockIdx.x; index < arguments.chunk_count; index += gridDim.x) {
    const DeviceChunk chunk = arguments.chunks[index];
    const DeviceTensor& tensor = arguments.tensors[chunk.tensor];
    const Row& row = arguments.rows[tensor.row];
    const auto pipeline = narrow<C>(row.pipeline);
    const auto rule = narrow_rule<Momentum, C>(row);
    const ChunkOperands<Momentum, Slots, T, S> operands(tensor, chunk.begin);
    ThreadDraws<Stages> draws(arguments.extras, arguments.stages, tensor.member);
    C gradient_sum = 0, direction_sum = 0;
    const auto measure = [&](C gradient, C parameter, C momentum_buffer, int64_t i) {
      C state[Momentum::kSlots] = {momentum_buffer};
      const C seen = prepare<Stages>(pipeline, gradient, parameter, draws.at(chunk.begin + i));
      Momentum::accumulate<Slots>(rule, seen, state);
      gradient_sum += square(seen);
      direction_sum += square(Momentum::measured<Slots>(seen, state));
    };
    constexpr bool kReadsParameter = (Stages & kCoupledDecay) != 0, kReadsState = (Slots & 1u) != 0;
    for_each_element<kWidth<T>>(
        chunk.count, tensor.head,
        [&](int64_t i) {
          measure(load(operands.gradient[i]), kReadsParameter ? load(operands.parameter[i]) : C(0),
                  kReadsState ? load(operands.state[0][i]) : C(0), i);
        },
        [&](int64_t i) {
          C gradient[kWidth<T>], parameter[kWidth<T>] = {}, momentum_buffer[kWidth<T>] = {};
          read_vector(operands.gradient + i, gradient);
          if constexpr (kReadsParameter) read_vector(operands.parameter + i, parameter);
          if constexpr (kReadsState) read_vector(operands.state[0] + i, momentum_buffer);
#pragma unroll
          for (int lane = 0; lane < kWidth<T>; ++lane)
            measure(gradient[lane], parameter[lane], momentum_buffer[lane], i + lane);
        });
    const double gradient_total = sum_over_block(static_cast<double>(gradient_sum));
    const double direction_total = sum_over_block(static_cast<double>(direction_sum));
    if (threadIdx.x == 0) arguments.partials[index] = Partial{gradient_total, direction_total, 0.0};
  }
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_rule(finish);
}

// Alone where nothing is measured and yet a number on the device decides: a loss, a GradScaler.
static __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    finish_kernel(const __grid_constant__ FinishArguments finish) {
  finish_step(finish);
}

}  // namespace torchclip::cuda
