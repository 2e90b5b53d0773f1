// Where the elements of a tensor lie, and what they are multiplied with.
#pragma once

#include <type_traits>

#include "../step/coefficients.h"
#include "../step/device_tables.h"
#include "vector.cuh"

namespace torchclip::cuda {

template <class T>
__device__ __forceinline__ const T* gradient_of(const PassArguments& arguments, int32_t tensor) {
  const void* const* const table = arguments.gradients;
  return static_cast<const T*>(table != nullptr ? table[tensor] : arguments.inline_gradients[tensor]);
}

__device__ __forceinline__ const Coefficients& coefficients_of(const PassArguments& arguments, const Coefficients* sets,
                                                               int32_t index) {
  return sets != nullptr ? sets[index] : arguments.inline_coefficients[index];
}

TORCHCLIP_HD constexpr unsigned operand_bit(int operand) { return 1u << operand; }

// Whether a gradient need not share the boundary of the other operands: those of shards are views of one buffer of
// many, at any place in it. Kernels of every stage, and those of float16, have no registers for that.
template <unsigned Stages, class T>
constexpr bool kGradientAnywhere = Stages != kEveryStage && !std::is_same_v<T, Float16>;

// Of one element, from the first of each operand.
struct Offsets {
  int64_t of[kOperands];
};

// Of an element of a tensor whose elements follow one another.
__device__ __forceinline__ Offsets in_order(int64_t element) {
  Offsets offsets;
#pragma unroll
  for (int operand = 0; operand < kOperands; ++operand) offsets.of[operand] = element;
  return offsets;
}

// `Used`: the operands that are looked at, by operand_bit.
template <unsigned Used>
__device__ __forceinline__ Offsets offsets_of(const DeviceTensor& tensor, int64_t element) {
  Offsets offsets;
  const int32_t dimensions = tensor.dimensions;
#pragma unroll
  for (int operand = 0; operand < kOperands; ++operand) offsets.of[operand] = dimensions == 0 ? element : 0;
#pragma unroll 1
  for (int32_t dimension = dimensions - 1; dimension >= 0; --dimension) {
    const int64_t* const column = tensor.layout + dimension;
    const int64_t size = column[0], index = element % size;
    element /= size;
#pragma unroll
    for (int operand = 0; operand < kOperands; ++operand)
      if ((Used & operand_bit(operand)) != 0)
        offsets.of[operand] += index * column[(1 + operand) * static_cast<int64_t>(dimensions)];
  }
  return offsets;
}

// The rule's coefficients of the compute type, those that kStepCoefficients names times `factor`: the product is in
// double, as it is on the CPU.
template <class Functor, class C>
__device__ __forceinline__ typename Functor::template Coefficients<C> narrow_rule_times(
    const Coefficients& coefficients, double factor) {
  using RuleCoefficients = typename Functor::template Coefficients<C>;
  C values[sizeof(RuleCoefficients) / sizeof(C)];
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(RuleCoefficients) / sizeof(C)); ++i)
    values[i] = static_cast<C>((Functor::kStepCoefficients >> i & 1u) != 0 ? coefficients.rule[i] * factor
                                                                           : coefficients.rule[i]);
  RuleCoefficients result;
  memcpy(&result, values, sizeof(result));
  return result;
}

// What the elements that a thread comes to one after the other are multiplied with. Where each row of the tensor has
// factors of its own, those of the present row are kept until an element lies outside it. What is looked at then alone
// stays in memory: registers are short where there are rows and draws.
template <class Functor, unsigned Stages, class C>
class ElementCoefficients {
 public:
  PipelineCoefficients<C> pipeline;
  typename Functor::template Coefficients<C> rule;

  // `sets`: see coefficients_of.
  __device__ __forceinline__ ElementCoefficients(const PassArguments& arguments, const DeviceTensor& tensor,
                                                 const Coefficients* sets)
      : pipeline(narrow<C>(coefficients_of(arguments, sets, tensor.coefficients).pipeline)),
        rule(narrow_rule<Functor, C>(coefficients_of(arguments, sets, tensor.coefficients))) {
    const bool has_factors = arguments.row_gradient_factors != nullptr || arguments.row_step_factors != nullptr;
    if (Stages == kEveryStage && tensor.rows.count > 0 && has_factors) end_ = 0;
  }

  __device__ __forceinline__ void move_to(const PassArguments& arguments, const DeviceTensor& tensor,
                                          const Coefficients* sets, int64_t element) {
    if constexpr (Stages == kEveryStage) {
      if (element >= begin_ && element < end_) return;
      const int64_t line = element / tensor.rows.inner;
      begin_ = line * tensor.rows.inner;
      end_ = begin_ + tensor.rows.inner;
      const int64_t index = tensor.first_row + line % tensor.rows.count;
      const Coefficients& coefficients = coefficients_of(arguments, sets, tensor.coefficients);
      if (arguments.row_gradient_factors != nullptr)
        pipeline.gradient_scale =
            static_cast<C>(coefficients.pipeline.gradient_scale * arguments.row_gradient_factors[index]);
      if constexpr (Functor::kMeasuresDirection)
        if (arguments.row_step_factors != nullptr)
          rule = narrow_rule_times<Functor, C>(coefficients, arguments.row_step_factors[index]);
    }
  }

 private:
  // The run of elements of the present row; all there are where rows have no factors.
  int64_t begin_ = 0, end_ = INT64_MAX;
};

}  // namespace torchclip::cuda
