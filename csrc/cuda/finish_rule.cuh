// What the last block of a pass decides that measures the norms a rule takes itself: the rule's coefficients.
#pragma once

#include "finish.cuh"

namespace torchclip::cuda {

// Sets the coefficients of a rule that clips itself, and returns the factor that it has on its direction.
__device__ __forceinline__ double set_clipped(const FinishRuleArguments& finish, const CoefficientSource& source,
                                              DirectionNorms norms, Coefficients& set) {
  double factor = 1.0;
  visit_rule(finish.coefficients.rule, [&](auto rule) {
    using Rule = typename decltype(rule)::type;
    double scalars[kMaxScalars] = {};
    if constexpr (Rule::kClipsItself) factor = set_coefficients<Rule>(finish.coefficients, source, norms, set, scalars);
  });
  return factor;
}

// The factor on the direction of the only unit: that of the first group's hyperparameters.
__device__ __forceinline__ double factor_of_first_group(const FinishRuleArguments& finish, DirectionNorms norms) {
  double factor = 1.0;
  visit_rule(finish.coefficients.rule, [&](auto rule) {
    using Rule = typename decltype(rule)::type;
    if constexpr (Rule::kClipsItself)
      factor = Rule::direction_factor(hyperparameters_of<Rule>(group_of(finish.coefficients, 0)), norms);
  });
  return factor;
}

// The norms of one unit, by one thread. A rule that sums them has its root as the clip factor already.
__device__ __forceinline__ void take_norms(const FinishRuleArguments& finish, int unit, const Partial& sum,
                                           bool skips) {
  DirectionNorms norms{sqrt(sum.gradient), sqrt(sum.direction)};
  finish.grad_norm[unit] = norms.gradient;
  finish.direction_norm[unit] = norms.direction;
  void* const place = finish.rule_sums == nullptr ? nullptr : finish.rule_sums[unit];
  if (place != nullptr) {
    const bool is_double = finish.sum_is_double[unit] != 0;
    const double total = read_number(place, is_double, 0) + sum.gradient;
    if (!skips) write_number(place, is_double, 0, total);
    norms.root_factor = 1.0 / sqrt(total);
  }
  const bool over_rows = finish.row_sums.row_factors != nullptr;
  const bool is_only = finish.sums.units == 1 && !over_rows;
  finish.clip_factor[unit] = is_only ? factor_of_first_group(finish, norms) : norms.root_factor;
}

// By one thread for each set of coefficients: them, and the factor of its unit where it is the first of it.
__device__ __forceinline__ void fill_rule_coefficients(const FinishRuleArguments& finish) {
  const CoefficientArguments& coefficients = finish.coefficients;
  Modifiers quiet = finish.modifiers;  // a step without a first finish draws nothing
  quiet.gradient_noise = 0;
#pragma unroll 1
  for (int index = static_cast<int>(threadIdx.x); index < coefficients.count; index += kThreads) {
    const CoefficientSource& source = coefficients.sources[index];
    Coefficients& set = coefficients.sets[index];
    if (finish.numbers == nullptr) set.pipeline = pipeline_of(group_of(coefficients, source.group), quiet, 0.0, 1.0);
    DirectionNorms norms;
    if (source.rule_unit >= 0 && finish.sums.units > 0) {
      norms = {finish.grad_norm[source.rule_unit], finish.direction_norm[source.rule_unit]};
      if (finish.rule_sums != nullptr) norms.root_factor = finish.clip_factor[source.rule_unit];
    }
    const double factor = set_clipped(finish, source, norms, set);
    const bool is_first = index == 0 || coefficients.sources[index - 1].rule_unit != source.rule_unit;
    const bool reports = finish.sums.units > 1 && finish.rule_sums == nullptr && finish.row_sums.row_factors == nullptr;
    if (reports && is_first && source.rule_unit >= 0) finish.clip_factor[source.rule_unit] = factor;
  }
}

// The steps that measured a factor, and those with one below 1. All threads must call it.
__device__ __forceinline__ void count_step(const FinishRuleArguments& finish) {
  __shared__ int clips;
  if (threadIdx.x == 0) clips = 0;
  __syncthreads();
  for (int unit = static_cast<int>(threadIdx.x); unit < finish.sums.units; unit += kThreads)
    if (finish.clip_factor[unit] < 1) atomicOr(&clips, 1);
  __syncthreads();
  if (threadIdx.x != 0) return;
  finish.counters[0] += 1;
  if (clips != 0) finish.counters[1] += 1;
}

// All threads of one block. Not inlined: see finish_step.
template <bool kByRows>
TORCHCLIP_NOINLINE __device__ void finish_rule(const FinishRuleArguments& finish) {
  const bool skips = (finish.numbers != nullptr && finish.numbers->skip != 0) || is_idle(finish) || disagrees(finish);
  if (kByRows && finish.row_sums.long_row_count > 0) finish_long_rows(finish.row_sums, RowStep{skips});
  const bool decides =
      sum_units(finish.sums, [&](int unit, const Partial& sum, bool) { take_norms(finish, unit, sum, skips); });
  if (!decides) return;
  if (threadIdx.x == 0 && finish.decided != nullptr) {
    finish.decided->skip = skips ? 1 : 0;
    keep_disagreement(finish);
  }
  __syncthreads();
  fill_rule_coefficients(finish);
  __syncthreads();
  if (finish.counters != nullptr && !skips) count_step(finish);
}

}  // namespace torchclip::cuda
