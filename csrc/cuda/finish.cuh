// What one block does with the partial sums: norms, clip factors, step size, and with them the rows of coefficients.
#pragma once

#include "../policies.h"
#include "../rules/registry.h"
#include "device_tables.h"
#include "reduce.cuh"

namespace torchclip::cuda {

__device__ __forceinline__ double inverse_scale(const FinishArguments& finish) {
  return finish.grad_scale == nullptr ? 1.0 : 1.0 / static_cast<double>(*finish.grad_scale);
}

// AutoClip's percentile, of the norms remembered and the new one, by linear interpolation between the two nearest
// ranks. Every thread finds the ranks of its own share of the norms. All threads of a block must call it; returns -1
// where nothing has ever been remembered.
__device__ inline double window_percentile(const FinishArguments& finish, double norm) {
  __shared__ double nearest[2];
  const Modifiers& m = finish.modifiers;
  const bool finite = is_finite(norm);
  const int window = static_cast<int>(m.window);
  const int place = static_cast<int>(fmod(*finish.norm_count, m.window));
  const double count = *finish.norm_count + (finite ? 1 : 0);
  const int remembered = static_cast<int>(at_most(count, m.window));
  if (remembered == 0) return -1.0;
  const auto value = [&](int i) { return finite && i == place ? norm : finish.norm_window[i]; };
  const double rank = m.percentile / 100 * (remembered - 1);
  const int below = static_cast<int>(rank), above = below + 1 < remembered ? below + 1 : below;
  for (int i = static_cast<int>(threadIdx.x); i < remembered && i < window; i += kThreads) {
    const double own = value(i);
    int smaller = 0, equal = 0;
    for (int j = 0; j < remembered; ++j) {
      const double other = value(j);
      smaller += other < own;
      equal += other == own;
    }
    if (smaller <= below && below < smaller + equal) nearest[0] = own;
    if (smaller <= above && above < smaller + equal) nearest[1] = own;
  }
  __syncthreads();
  return nearest[0] + (rank - below) * (nearest[1] - nearest[0]);
}

// The bound of a policy that takes one norm over all parameters and remembers; `percentile` is AutoClip's.
__device__ inline double adaptive_factor(const FinishArguments& finish, double norm, double percentile,
                                         NormAverages& averages) {
  const Modifiers& m = finish.modifiers;
  if (m.clip_kind() == ClipKind::kPercentile) return percentile < 0 ? 1.0 : clip_factor(norm, percentile, false);
  averages = {*finish.norm_count, *finish.norm_mean, *finish.norm_variance};
  return factor_to(norm, z_clip_bound(norm, {m.z_alpha, m.z_threshold, m.z_warmup, m.z_eps, m.limit}, averages));
}

// Calls `take(unit, sum)`, in one thread for each unit, with the sum of its partial sums, always added in the same
// order: by the whole block where there is one unit, and by a warp for each where there are many. All threads must call
// it.
template <class Take>
__device__ __forceinline__ void sum_units(const Partial* partials, const int32_t* unit_chunks, int units,
                                          double Partial::* quantity, const Take& take) {
  const auto partial_sum = [&](int unit, int lane, int lanes) {
    double sum = 0;
    for (int chunk = unit_chunks[unit] + lane; chunk < unit_chunks[unit + 1]; chunk += lanes)
      sum += partials[chunk].*quantity;
    return sum;
  };
  if (units == 1) {
    const double sum = sum_over_block(partial_sum(0, static_cast<int>(threadIdx.x), kThreads));
    if (threadIdx.x == 0) take(0, sum);
    return;
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int unit = static_cast<int>(threadIdx.x) / kWarp; unit < units; unit += kWarps) {
    const double sum = sum_over_warp(partial_sum(unit, lane, kWarp));
    if (lane == 0) take(unit, sum);
  }
}

// The clip factor of every unit, by one thread. Returns false when a norm is not finite.
__device__ inline bool take_factors(const FinishArguments& finish, double percentile, NormAverages& averages) {
  const Modifiers& m = finish.modifiers;
  bool finite = true;
  for (int unit = 0; unit < finish.units; ++unit) {
    const double norm = finish.grad_norm[unit];
    finite = finite && is_finite(norm);
    finish.clip_factor[unit] = m.clip_kind() == ClipKind::kNorm ? clip_factor(norm, m.limit, m.smooth != 0)
                                                                : adaptive_factor(finish, norm, percentile, averages);
  }
  return finite;
}

// What the policy remembers of a step that is taken.
__device__ inline void remember_norm(const FinishArguments& finish, const NormAverages& averages) {
  const Modifiers& m = finish.modifiers;
  const double norm = finish.grad_norm[0];
  if (m.clip_kind() == ClipKind::kPercentile && is_finite(norm)) {
    finish.norm_window[static_cast<int>(fmod(*finish.norm_count, m.window))] = norm;
    *finish.norm_count += 1;
  }
  if (m.clip_kind() != ClipKind::kZScore) return;
  *finish.norm_count = averages.count;
  *finish.norm_mean = averages.mean;
  *finish.norm_variance = averages.variance;
}

// Whether there is a step, and the numbers that it leaves behind, by one thread.
__device__ inline void decide(const FinishArguments& finish, double percentile) {
  const Modifiers& m = finish.modifiers;
  NormAverages averages;
  const bool finite = take_factors(finish, percentile, averages);
  const bool overflow = finish.found_inf != nullptr && *finish.found_inf != 0;
  const bool skips = overflow || (!finite && m.on_nonfinite() != NonFinite::kPropagate);
  *finish.skip = skips ? 1 : 0;
  const double step = finish.step == nullptr ? 0.0 : *finish.step + 1;
  double b_squared = square(m.b0) + m.alpha * step;
  if (m.step_size_kind() == StepSizeKind::kLoss) b_squared = add_loss(*finish.b_squared, *finish.loss, m.alpha, m.c);
  if (m.step_size_kind() != StepSizeKind::kNone) *finish.lr_scale = 1.0 / sqrt(b_squared);
  if (skips) return;
  if (finish.step != nullptr) *finish.step = step;
  if (m.step_size_kind() == StepSizeKind::kLoss) *finish.b_squared = b_squared;
  if (finish.units > 0) remember_norm(finish, averages);
}

// All threads of one block.
__device__ inline void finish_step(const FinishArguments& finish) {
  sum_units(finish.partials, finish.unit_chunks, finish.units, &Partial::gradient,
            [&](int unit, double sum) { finish.grad_norm[unit] = sqrt(sum); });
  __syncthreads();
  double percentile = -1.0;
  if (finish.modifiers.clip_kind() == ClipKind::kPercentile && finish.units > 0)
    percentile = window_percentile(finish, finish.grad_norm[0]);
  if (threadIdx.x == 0) decide(finish, percentile);
  __syncthreads();
  const double step_size = finish.modifiers.step_size_kind() == StepSizeKind::kNone ? 1.0 : *finish.lr_scale;
  const double everywhere = inverse_scale(finish) * step_size;
  for (int row = static_cast<int>(threadIdx.x); row < finish.row_count; row += kThreads) {
    const int unit = finish.sources[row].clip_unit;
    finish.rows[row].pipeline.gradient_scale *= everywhere * (unit < 0 ? 1.0 : finish.clip_factor[unit]);
    finish.rows[row].pipeline.value_limit *= step_size;
  }
}

template <class Rule>
__device__ inline double set_coefficients(const RuleSource& source, DirectionNorms norms, Row& row) {
  typename Rule::Hyperparameters hyperparameters;
  static_assert(sizeof(hyperparameters) <= sizeof(source.hyperparameters));
  memcpy(&hyperparameters, source.hyperparameters, sizeof(hyperparameters));
  const auto coefficients = Rule::coefficients(hyperparameters, nullptr, source.first != 0, norms);
  memcpy(row.rule, &coefficients, sizeof(coefficients));
  return Rule::direction_factor(hyperparameters, norms);
}

// All threads of one block.
__device__ inline void finish_rule(const FinishRuleArguments& finish) {
  const bool skips = finish.skip != nullptr && *finish.skip != 0;
  sum_units(finish.partials, finish.unit_chunks, finish.units, &Partial::gradient, [&](int unit, double sum) {
    finish.grad_norm[unit] = sqrt(sum);
    if (finish.rule == SelfClipping::kAdaGradNorm && !skips) finish.sums[unit] += sum;
  });
  sum_units(finish.partials, finish.unit_chunks, finish.units, &Partial::direction,
            [&](int unit, double sum) { finish.direction_norm[unit] = sqrt(sum); });
  __syncthreads();
  for (int row = static_cast<int>(threadIdx.x); row < finish.row_count; row += kThreads) {
    const RuleSource& source = finish.sources[row];
    DirectionNorms norms{finish.grad_norm[source.unit], finish.direction_norm[source.unit]};
    double factor = 1;
    switch (finish.rule) {
      case SelfClipping::kNormalizedSgd:
        factor = set_coefficients<NormalizedSgd>(source, norms, finish.rows[row]);
        break;
      case SelfClipping::kMixClip:
        factor = set_coefficients<MixClip>(source, norms, finish.rows[row]);
        break;
      case SelfClipping::kAdaGradNorm:
        norms.root_factor = 1.0 / sqrt(finish.sums[source.unit]);
        factor = set_coefficients<AdaGradNorm>(source, norms, finish.rows[row]);
        break;
    }
    if (row == 0 || finish.sources[row - 1].unit != source.unit) finish.clip_factor[source.unit] = factor;
  }
}

}  // namespace torchclip::cuda
