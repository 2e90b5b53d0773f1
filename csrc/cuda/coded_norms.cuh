// The norm passes over operands that a precision policy holds.
#pragma once

#include "coded_tensor.cuh"
#include "row_norms.cuh"

namespace torchclip::cuda {

// Calls `one(element)` and `together(element)` for the share of one of `lanes` threads in the places [begin, end).
// `is_together`: whole vectors can be accessed.
template <class Places, class One, class Together>
__device__ __forceinline__ void walk_coded(int64_t begin, int64_t end, int rank, int lanes, const Places& places,
                                           bool is_together, const One& one, const Together& together) {
  const int64_t head = places.is_dense() && is_together ? (kTogether - begin % kTogether) % kTogether : -1;
  const Split split(begin, end, head, kTogether);
#pragma unroll 1
  for (int64_t i = rank; i < split.alone(); i += lanes) one(places.element(split.element(i)));
#pragma unroll 1
  for (int64_t element = split.first + rank * kTogether; element < split.last; element += lanes * kTogether)
    together(element);
}

// As GradientMeter with weights.
struct CodedWeightMeter : CodedTensor<false> {
  static constexpr unsigned kUsed = operand_bit(kGradient) | operand_bit(kParameter);

  float scale;

  __device__ __forceinline__ CodedWeightMeter(const PassArguments& arguments, int32_t index, CachePolicy policy,
                                              float scale)
      : CodedTensor(arguments, index, policy), scale(scale) {}

  template <int kCount>
  __device__ __forceinline__ void add(const CodedPlace& place, float (&sums)[2]) const {
    Stored<kCount> gradient, parameter;
    read_gradient(place, gradient);
    read_parameter(place, parameter);
    Vector<float, kCount> own, weight;
    decode_gradient(gradient, own);
    decode_parameter(parameter, weight);
#pragma unroll
    for (int lane = 0; lane < kCount; ++lane) {
      sums[0] += square(own[lane] * scale);
      sums[1] += square(weight[lane]);
    }
  }

  template <class Places>
  __device__ __forceinline__ void measure(int64_t begin, int64_t end, int rank, int lanes, const Places& places,
                                          double (&result)[2]) const {
    float sums[2] = {};
    walk_coded(
        begin, end, rank, lanes, places, is_aligned<kUsed>(),
        [&](int64_t element) { add<1>(place_of<kUsed>(element), sums); },
        [&](int64_t element) { add<kTogether>(in_order(element), sums); });
    result[0] = static_cast<double>(sums[0]);
    result[1] = static_cast<double>(sums[1]);
  }
};

// As DirectionMeter, whose arithmetic it has.
template <class Functor, unsigned Slots>
struct CodedDirectionMeter : DirectionMeter<Functor, Slots, kEveryStage, float, float> {
  using Meter = DirectionMeter<Functor, Slots, kEveryStage, float, float>;

  CodedTensor<true> coded;

  __device__ __forceinline__ CodedDirectionMeter(const PassArguments& arguments, int32_t index, CachePolicy policy)
      : Meter(arguments, index, policy), coded(arguments, index, policy) {}

  template <int kCount>
  __device__ __forceinline__ void add_at(const CodedPlace& place, float (&sums)[2]) {
    Stored<kCount> gradient, parameter;
    StoredSlot<kCount> state;
    coded.read_gradient(place, gradient);
    if constexpr (Meter::kReadsParameter) coded.read_parameter(place, parameter);
    if constexpr (Meter::kReadsState) coded.read_slot(0, place, state);
    const ThreadDraws<kEveryStage, kCount> draws(this->arguments, coded.tensor.place, place.element);
    Vector<float, kCount> own[3];
    coded.decode_gradient(gradient, own[0]);
    if constexpr (Meter::kReadsParameter) coded.decode_parameter(parameter, own[1]);
    if constexpr (Meter::kReadsState) coded.decode_slot(0, state, own[2]);
    this->add(place.element, draws, own, sums);
  }

  template <class Places>
  __device__ __forceinline__ void measure(int64_t begin, int64_t end, int rank, int lanes, const Places& places,
                                          double (&result)[2]) {
    float sums[2] = {};
    walk_coded(
        begin, end, rank, lanes, places, coded.template is_aligned<Meter::kUsed>(),
        [&](int64_t element) { add_at<1>(coded.template place_of<Meter::kUsed>(element), sums); },
        [&](int64_t element) { add_at<kTogether>(CodedTensor<true>::in_order(element), sums); });
    result[0] = static_cast<double>(sums[0]);
    result[1] = static_cast<double>(sums[Meter::kMeasuresGradient ? 0 : 1]);
  }
};

// As direction_norm_kernel.
template <class Functor, unsigned Slots>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    coded_direction_norm_kernel(const __grid_constant__ PassArguments arguments,
                                const __grid_constant__ FinishRuleArguments finish) {
  let_next_begin();
  measure_chunks(arguments, gridDim.x, [&](int32_t tensor, CachePolicy policy) {
    return CodedDirectionMeter<Functor, Slots>(arguments, tensor, policy);
  });
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_rule<false>(finish);
}

// As row_direction_norm_kernel.
template <class Functor, unsigned Slots>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    coded_row_direction_norm_kernel(const __grid_constant__ PassArguments arguments,
                                    const __grid_constant__ FinishRuleArguments finish) {
  let_next_begin();
  const bool skips = arguments.numbers != nullptr && arguments.numbers->skip != 0;
  measure_row_chunks(
      arguments, gridDim.x,
      [&](int32_t tensor, CachePolicy policy) {
        return CodedDirectionMeter<Functor, Slots>(arguments, tensor, policy);
      },
      RowStep{skips});
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_rule<true>(finish);
}

}  // namespace torchclip::cuda
