// What the norm passes sum over the elements of a tensor; see for_each_element.
#pragma once

#include "../rules/registry.h"
#include "draws.cuh"
#include "operands.cuh"

namespace torchclip::cuda {

// The squares of the scaled gradient, and of the parameter where a policy compares the two.
template <class T, bool kWeights>
class GradientMeter {
  using C = ComputeType<T>;
  static constexpr unsigned kUsed = operand_bit(kGradient) | (kWeights ? operand_bit(kParameter) : 0u);

 public:
  static constexpr int kElements = kWidth<T>;
  static constexpr int kVectors = vectors_in_flight(kWeights ? 2 : 1);

  // `scale`: the inverse of GradScaler's, which is undone before squaring: the squares of a scaled gradient may
  // overflow. `policy`: see policy_of_chunk.
  __device__ __forceinline__ GradientMeter(const PassArguments& arguments, int32_t index, CachePolicy policy, C scale)
      : tensor_(arguments.tensors[index]),
        gradient_(gradient_of<T>(arguments, index)),
        parameter_(static_cast<const T*>(tensor_.pointer[kParameter])),
        policy_(policy),
        scale_(scale) {}

  __device__ __forceinline__ int64_t head(int64_t begin) const {
    const int64_t head = elements_to_boundary(gradient_ + begin);
    return tensor_.dimensions == 0 && (!kWeights || on_boundary(parameter_ + begin + head)) ? head : -1;
  }

  __device__ __forceinline__ void one(int64_t element) {
    const Offsets offsets = offsets_of<kUsed>(tensor_, element);
    sums_[0] += square(load(gradient_[offsets.of[kGradient]]) * scale_);
    if constexpr (kWeights) sums_[1] += square(load(parameter_[offsets.of[kParameter]]));
  }

  __device__ __forceinline__ void vectors(int64_t element, int64_t stride, int64_t end) {
    C gradient[kVectors][kElements], parameter[kVectors][kElements];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t place = element + i * stride < end ? element + i * stride : element;
      read_vector(gradient_ + place, gradient[i], policy_);
      if constexpr (kWeights) read_vector(parameter_ + place, parameter[i], policy_);
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      C own[2] = {};
#pragma unroll
      for (int lane = 0; lane < kElements; ++lane) {
        own[0] += square(gradient[i][lane] * scale_);
        if constexpr (kWeights) own[1] += square(parameter[i][lane]);
      }
      if (element + i * stride >= end) continue;
      sums_[0] += own[0];
      if constexpr (kWeights) sums_[1] += own[1];
    }
  }

  __device__ __forceinline__ void take_sums(double (&sums)[2]) {
    for (int i = 0; i < 2; ++i) {
      sums[i] = static_cast<double>(sums_[i]);
      sums_[i] = 0;
    }
  }

 private:
  const DeviceTensor& tensor_;
  const T* gradient_;
  const T* parameter_;
  CachePolicy policy_;
  C scale_;
  C sums_[2] = {};
};

// The squares of the gradient as the rule sees it, and of its direction. The state is advanced in registers and not
// written.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
class DirectionMeter {
  using C = ComputeType<T>;
  static constexpr bool kReadsParameter = (Stages & kCoupledDecay) != 0, kReadsState = (Slots & 1u) != 0;
  static constexpr unsigned kUsed = operand_bit(kGradient) | (kReadsParameter ? operand_bit(kParameter) : 0u) |
                                    (kReadsState ? operand_bit(kState0) : 0u);
  static constexpr bool kMeasuresGradient = Functor::template kMeasuresGradient<Slots>;

 public:
  static constexpr int kElements = kWidth<T>;
  static constexpr int kVectors =
      Stages == kEveryStage
          ? 1
          : vectors_in_flight((kReadsParameter ? 2 : 1) + (kReadsState ? static_cast<int>(sizeof(S) / sizeof(T)) : 0));

  __device__ __forceinline__ DirectionMeter(const PassArguments& arguments, int32_t index, CachePolicy policy)
      : arguments_(arguments),
        tensor_(arguments.tensors[index]),
        gradient_(gradient_of<T>(arguments, index)),
        parameter_(static_cast<const T*>(tensor_.pointer[kParameter])),
        state_(static_cast<const S*>(tensor_.pointer[kState0])),
        policy_(policy),
        coefficients_(arguments, tensor_, arguments.rows) {}

  __device__ __forceinline__ int64_t head(int64_t begin) const {
    const int64_t head = elements_to_boundary(gradient_ + begin), first = begin + head;
    const bool agree = tensor_.dimensions == 0 && (!kReadsParameter || on_boundary(parameter_ + first)) &&
                       (!kReadsState || on_boundary(state_ + first));
    return agree ? head : -1;
  }

  __device__ __forceinline__ void one(int64_t element) {
    const Offsets offsets = offsets_of<kUsed>(tensor_, element);
    const C gradient = load(gradient_[offsets.of[kGradient]]);
    const C parameter = kReadsParameter ? load(parameter_[offsets.of[kParameter]]) : C(0);
    const C state = kReadsState ? load(state_[offsets.of[kState0]]) : C(0);
    const ThreadDraws<Stages, 1> draws(arguments_, tensor_.parameter, element);
    measure(element, draws.at(0), gradient, parameter, state, sums_);
  }

  __device__ __forceinline__ void vectors(int64_t element, int64_t stride, int64_t end) {
    static_assert(kVectors == 1 || (Stages & kDrawnStages) == 0);
    C gradient[kVectors][kElements], parameter[kVectors][kElements] = {}, state[kVectors][kElements] = {};
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t place = element + i * stride < end ? element + i * stride : element;
      read_vector(gradient_ + place, gradient[i], policy_);
      if constexpr (kReadsParameter) read_vector(parameter_ + place, parameter[i], policy_);
      if constexpr (kReadsState) read_vector(state_ + place, state[i], policy_);
    }
    const ThreadDraws<Stages, kElements> draws(arguments_, tensor_.parameter, element);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      C own[2] = {};
#pragma unroll
      for (int lane = 0; lane < kElements; ++lane)
        measure(element + i * stride + lane, draws.at(lane), gradient[i][lane], parameter[i][lane], state[i][lane],
                own);
      if (element + i * stride >= end) continue;
      sums_[0] += own[0];
      sums_[1] += own[1];
    }
  }

  __device__ __forceinline__ void take_sums(double (&sums)[2]) {
    sums[0] = static_cast<double>(sums_[0]);
    sums[1] = static_cast<double>(sums_[kMeasuresGradient ? 0 : 1]);
    sums_[0] = sums_[1] = 0;
  }

 private:
  __device__ __forceinline__ void measure(int64_t element, const Draws& draws, C gradient, C parameter, C before,
                                          C (&sums)[2]) {
    coefficients_.move_to(arguments_, tensor_, arguments_.rows, element);
    const C seen = prepare<Stages>(coefficients_.pipeline, gradient, parameter, draws);
    sums[0] += square(seen);
    if constexpr (!kMeasuresGradient) {
      C state[Functor::kSlots] = {before};
      Functor::template accumulate<Slots>(coefficients_.rule, seen, state);
      sums[1] += square(Functor::template measured<Slots>(seen, state));
    }
  }

  const PassArguments& arguments_;
  const DeviceTensor& tensor_;
  const T* gradient_;
  const T* parameter_;
  const S* state_;
  CachePolicy policy_;
  ElementCoefficients<Functor, Stages, C> coefficients_;
  C sums_[2] = {};
};

}  // namespace torchclip::cuda
