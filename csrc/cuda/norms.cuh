// The norm passes: a persistent grid whose blocks take chunk after chunk, and the block that is last works out what
// follows from the sums.
#pragma once

#include "draws.cuh"
#include "finish_rule.cuh"
#include "operands.cuh"

namespace torchclip::cuda {

// Elements that follow one another.
struct InOrder {
  __device__ __forceinline__ bool is_dense() const { return true; }
  __device__ __forceinline__ int64_t element(int64_t place) const { return place; }
};

// The squares of the scaled gradient, and of the parameter where a policy compares the two, over the elements of a
// tensor. `policy`: see policy_of_chunk.
template <class T, bool kWeights>
struct GradientMeter {
  using C = ComputeType<T>;
  static constexpr unsigned kUsed = operand_bit(kGradient) | (kWeights ? operand_bit(kParameter) : 0u);
  static constexpr int kVectors = vectors_in_flight(kWeights ? 2 : 1);

  const DeviceTensor& tensor;
  const T* gradient;
  const T* parameter;
  CachePolicy policy;
  C scale;  // the inverse of GradScaler's, undone before squaring: the squares of a scaled gradient may overflow

  __device__ __forceinline__ GradientMeter(const PassArguments& arguments, int32_t index, CachePolicy policy, C scale)
      : tensor(arguments.tensors[index]),
        gradient(gradient_of<T>(arguments, index)),
        parameter(static_cast<const T*>(tensor.pointer[kParameter])),
        policy(policy),
        scale(scale) {}

  __device__ __forceinline__ int64_t head(int64_t begin) const {
    const int64_t head = elements_to_boundary(gradient + begin);
    return tensor.dimensions == 0 && (!kWeights || on_boundary(parameter + begin + head)) ? head : -1;
  }

  // The share of one of `lanes` threads in the sums over the places [begin, end).
  template <class Places>
  __device__ __forceinline__ void measure(int64_t begin, int64_t end, int rank, int lanes, const Places& places,
                                          double (&result)[2]) const {
    C sums[2] = {};
    const Split split(begin, end, places.is_dense() ? head(begin) : -1, kWidth<T>);
#pragma unroll 1
    for (int64_t i = rank; i < split.alone(); i += lanes) {
      const Offsets at = offsets_of<kUsed>(tensor, places.element(split.element(i)));
      sums[0] += square(load(gradient[at.of[kGradient]]) * scale);
      if constexpr (kWeights) sums[1] += square(load(parameter[at.of[kParameter]]));
    }
    const int64_t stride = static_cast<int64_t>(lanes) * kWidth<T>;
#pragma unroll 1
    for (int64_t element = split.first + rank * kWidth<T>; element < split.last; element += stride * kVectors) {
      Vector<C, kWidth<T>> own[kVectors], weight[kVectors];
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int64_t place = element + i * stride < split.last ? element + i * stride : element;
        own[i].load(gradient + place, policy);
        if constexpr (kWeights) weight[i].load(parameter + place, policy);
      }
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        C squares[2] = {};
#pragma unroll
        for (int lane = 0; lane < kWidth<T>; ++lane) {
          squares[0] += square(own[i][lane] * scale);
          if constexpr (kWeights) squares[1] += square(weight[i][lane]);
        }
        if (element + i * stride >= split.last) continue;
        sums[0] += squares[0];
        if constexpr (kWeights) sums[1] += squares[1];
      }
    }
    result[0] = static_cast<double>(sums[0]);
    result[1] = static_cast<double>(sums[1]);
  }
};

// The squares of the gradient as the rule sees it, and of its direction. The state is advanced in registers and not
// written.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
struct DirectionMeter {
  using C = ComputeType<T>;
  static constexpr bool kReadsParameter = (Stages & kCoupledDecay) != 0, kReadsState = (Slots & 1u) != 0;
  static constexpr unsigned kUsed = operand_bit(kGradient) | (kReadsParameter ? operand_bit(kParameter) : 0u) |
                                    (kReadsState ? operand_bit(kState0) : 0u);
  static constexpr bool kMeasuresGradient = Functor::template kMeasuresGradient<Slots>;
  static constexpr int kVectors =
      Stages == kEveryStage
          ? 1
          : vectors_in_flight((kReadsParameter ? 2 : 1) + (kReadsState ? static_cast<int>(sizeof(S) / sizeof(T)) : 0));
  static_assert(kVectors == 1 || (Stages & kDrawnStages) == 0);

  const PassArguments& arguments;
  const DeviceTensor& tensor;
  const T* gradient;
  const T* parameter;
  const S* state;
  CachePolicy policy;
  ElementCoefficients<Functor, Stages, C> coefficients;

  __device__ __forceinline__ DirectionMeter(const PassArguments& arguments, int32_t index, CachePolicy policy)
      : arguments(arguments),
        tensor(arguments.tensors[index]),
        gradient(gradient_of<T>(arguments, index)),
        parameter(static_cast<const T*>(tensor.pointer[kParameter])),
        state(static_cast<const S*>(tensor.pointer[kState0])),
        policy(policy),
        coefficients(arguments, tensor, arguments.coefficients) {}

  __device__ __forceinline__ int64_t head(int64_t begin) const {
    const int64_t head = kReadsParameter ? elements_to_boundary(parameter + begin)
                         : kReadsState   ? elements_to_boundary(state + begin)
                                         : elements_to_boundary(gradient + begin);
    const int64_t first = begin + head;
    const bool agree = tensor.dimensions == 0 && (kGradientAnywhere<Stages, T> || on_boundary(gradient + first)) &&
                       (!kReadsState || on_boundary(state + first)) &&
                       (!kDraws<Stages> || draws_together<kWidth<T>>(tensor.place, first));
    return agree ? head : -1;
  }

  // `whole_gradient`: see UpdateOperands.
  template <int kCount>
  __device__ __forceinline__ void load_from(const Offsets& at, bool whole_gradient, Vector<C, kCount> (&own)[3]) const {
    own[0].load(gradient + at.of[kGradient], policy, whole_gradient);
    if constexpr (kReadsParameter) own[1].load(parameter + at.of[kParameter], policy);
    if constexpr (kReadsState) own[2].load(state + at.of[kState0], policy);
  }

  // Adds the squares of neighbours from `element` on.
  template <int kCount>
  __device__ __forceinline__ void add(int64_t element, const ThreadDraws<Stages, kCount>& draws,
                                      Vector<C, kCount> (&own)[3], C (&sums)[2]) {
#pragma unroll
    for (int lane = 0; lane < kCount; ++lane) {
      coefficients.move_to(arguments, tensor, arguments.coefficients, element + lane);
      const C seen = prepare<Stages>(coefficients.pipeline, own[0][lane], own[1][lane], draws.at(lane));
      sums[0] += square(seen);
      if constexpr (!kMeasuresGradient) {
        C advanced[Functor::kSlots] = {own[2][lane]};
        Functor::template accumulate<Slots>(coefficients.rule, seen, advanced);
        sums[1] += square(Functor::template measured<Slots>(seen, advanced));
      }
    }
  }

  // See GradientMeter.
  template <class Places>
  __device__ __forceinline__ void measure(int64_t begin, int64_t end, int rank, int lanes, const Places& places,
                                          double (&result)[2]) {
    C sums[2] = {};
    const Split split(begin, end, places.is_dense() ? head(begin) : -1, kWidth<T>);
#pragma unroll 1
    for (int64_t i = rank; i < split.alone(); i += lanes) {
      const int64_t element = places.element(split.element(i));
      Vector<C, 1> own[3];
      load_from(offsets_of<kUsed>(tensor, element), false, own);
      add(element, ThreadDraws<Stages, 1>(arguments, tensor.place, element), own, sums);
    }
    const int64_t stride = static_cast<int64_t>(lanes) * kWidth<T>;
    const bool whole_gradient = !kGradientAnywhere<Stages, T> || on_boundary(gradient + split.first);
#pragma unroll 1
    for (int64_t element = split.first + rank * kWidth<T>; element < split.last; element += stride * kVectors) {
      Vector<C, kWidth<T>> own[kVectors][3];
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
        load_from(in_order(element + i * stride < split.last ? element + i * stride : element), whole_gradient, own[i]);
      const ThreadDraws<Stages, kWidth<T>> draws(arguments, tensor.place, element);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        C squares[2] = {};
        add(element + i * stride, draws, own[i], squares);
        if (element + i * stride >= split.last) continue;
        sums[0] += squares[0];
        sums[1] += squares[1];
      }
    }
    result[0] = static_cast<double>(sums[0]);
    result[1] = static_cast<double>(sums[kMeasuresGradient ? 0 : 1]);
  }
};

// The update pass takes the chunks in the reverse order: those that come last here stay in the cache for it.
__device__ __forceinline__ CachePolicy policy_of_chunk(const PassArguments& arguments, int64_t index) {
  return index >= arguments.first_kept ? CachePolicy::keep() : CachePolicy::as_usual();
}

// How many blocks of the launch measure. Where there are several, the last of them fills the coefficients meanwhile.
__device__ __forceinline__ uint32_t measuring_blocks(bool fills_coefficients) {
  return gridDim.x > 1 && fills_coefficients ? gridDim.x - 1 : gridDim.x;
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
    double sums[2];
    meter.measure(chunk.begin, chunk.begin + chunk.count, static_cast<int>(threadIdx.x), kThreads, InOrder{}, sums);
    sum_over_block(sums);
    if (threadIdx.x == 0) arguments.partials[chunk.partial] = Partial{sums[0], sums[1]};
  }
}

// `Functor`: see fill_coefficients.
template <class Functor, class T>
__device__ __forceinline__ void measure_gradients(const PassArguments& arguments, const FinishArguments& finish) {
  const uint32_t blocks = measuring_blocks(finish.fills_coefficients != 0);
  if (finish.fills_coefficients != 0 && blockIdx.x == gridDim.x - 1) fill_coefficients<Functor>(finish);
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
