// What one block decides at the end of the clip policy's norm pass, and before everything else where nothing is
// measured: norms, clip factors, step size, whether there is a step, and with all that the rows of coefficients.
#pragma once

#include "finish_rows.cuh"
#include "launch.h"

namespace torchclip::cuda {

__device__ __forceinline__ double inverse_scale(const FinishArguments& finish) {
  return finish.grad_scale == nullptr ? 1.0 : 1.0 / static_cast<double>(*finish.grad_scale);
}

// What the threads of the block tell one another.
struct Decision {
  double step;       // the number of this step
  double step_size;  // a factor on all gradients
  int is_nonfinite;  // a norm that counts is not finite
  int clips;         // a factor is below 1
  int skips;
};

// Of whole numbers, as integers: the remainder of floating-point numbers is long code.
__device__ __forceinline__ int64_t remainder_of(double value, double divisor) {
  return whole_number(value) % static_cast<int64_t>(divisor);
}

// The norms that AutoClip has remembered so far.
__device__ __forceinline__ double norms_so_far(const FinishArguments& finish) {
  return static_cast<double>(whole_number(*finish.norm_count));
}

// Where AutoClip puts the next norm.
__device__ __forceinline__ int place_in_window(const FinishArguments& finish) {
  return static_cast<int>(remainder_of(*finish.norm_count, finish.modifiers.window));
}

// AutoClip's percentile, of the norms remembered and the new one, by linear interpolation between the two nearest
// ranks. Every thread finds the ranks of its own share of the norms. All threads of a block must call it; returns -1
// where nothing has ever been remembered.
__device__ __forceinline__ double window_percentile(const FinishArguments& finish, double norm) {
  __shared__ double nearest[2];
  const Modifiers& m = finish.modifiers;
  const bool finite = is_finite(norm);
  const int window = static_cast<int>(m.window);
  const int place = place_in_window(finish);
  const double count = norms_so_far(finish) + (finite ? 1 : 0);
  const int remembered = static_cast<int>(at_most(count, m.window));
  if (remembered == 0) return -1.0;
  const auto value = [&](int i) {
    const double own = finite && i == place ? norm : finish.norm_window[i];
    return own == own ? own : HUGE_VAL;  // a NaN has no rank
  };
  const double rank = m.percentile / 100 * (remembered - 1);
  const int below = static_cast<int>(rank), above = below + 1 < remembered ? below + 1 : below;
#pragma unroll 1
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

// In place of the sum of a group without gradients.
constexpr double kNoSum = -1.0;

// Norm and factor of one unit, by one thread. The factor of a policy that remembers norms comes later, and where groups
// have policies of their own both do: the sum is left in place of the factor.
__device__ __forceinline__ void take_unit(const FinishArguments& finish, int unit, const Partial& sum, bool is_empty,
                                          Decision& decision) {
  const Modifiers& m = finish.modifiers;
  if (finish.group_clips != nullptr) {
    finish.clip_factor[unit] = is_empty ? kNoSum : sum.gradient;
    return;
  }
  const double norm = is_empty ? 0.0 : sqrt(sum.gradient);
  double factor = 1.0;
  if (!is_empty && m.clip_kind() == ClipKind::kNorm) factor = clip_factor(norm, m.limit, m.smooth != 0);
  if (m.clip_kind() == ClipKind::kUnit && norm != 0) factor = sqrt(sum.direction) / norm;
  finish.grad_norm[unit] = norm;
  finish.clip_factor[unit] = factor;
  if (!is_finite(norm)) atomicOr(&decision.is_nonfinite, 1);
  if (factor < 1) atomicOr(&decision.clips, 1);
}

// The sum of the groups that are in one norm with this one, added in their order. By one thread.
__device__ __forceinline__ double joined_sum(const FinishArguments& finish, int group) {
  const int32_t unit = finish.group_clips[group].unit;
  double sum = kNoSum;
#pragma unroll 1
  for (int other = unit; unit >= 0 && other < finish.sums.units; ++other) {
    const double own = finish.clip_factor[other];
    if (finish.group_clips[other].unit == unit && own != kNoSum) sum = sum == kNoSum ? own : sum + own;
  }
  return sum;
}

// Norm and factor of every param group, where groups have policies of their own. All threads must call it.
__device__ __forceinline__ void take_groups(const FinishArguments& finish, Decision& decision) {
  const int groups = finish.sums.units;
#pragma unroll 1
  for (int group = static_cast<int>(threadIdx.x); group < groups; group += kThreads)
    finish.grad_norm[group] = joined_sum(finish, group);
  __syncthreads();  // all have read the sums, which the factors replace
#pragma unroll 1
  for (int group = static_cast<int>(threadIdx.x); group < groups; group += kThreads) {
    const GroupClip& clip = finish.group_clips[group];
    const double sum = finish.grad_norm[group];
    const double norm = sum == kNoSum ? 0.0 : sqrt(sum);
    const double factor = sum == kNoSum ? 1.0 : clip_factor(norm, clip.limit, clip.smooth != 0);
    finish.grad_norm[group] = norm;
    finish.clip_factor[group] = factor;
    const bool refuses = static_cast<NonFinite>(clip.nonfinite) != NonFinite::kPropagate;
    if (refuses && !is_finite(norm)) atomicOr(&decision.is_nonfinite, 1);
    if (factor < 1) atomicOr(&decision.clips, 1);
  }
  __syncthreads();
}

// The factor of a policy that takes one norm over all parameters and remembers it, and what it remembers where the
// step is taken. By one thread; `percentile` is AutoClip's.
__device__ __forceinline__ void take_adaptive(const FinishArguments& finish, double percentile, bool skips,
                                              Decision& decision) {
  const Modifiers& m = finish.modifiers;
  const double norm = finish.grad_norm[0];
  double factor = 1.0;
  if (m.clip_kind() == ClipKind::kPercentile) {
    if (percentile >= 0) factor = clip_factor(norm, percentile, false);
    if (!skips && is_finite(norm)) {
      finish.norm_window[place_in_window(finish)] = norm;
      *finish.norm_count = norms_so_far(finish) + 1;
    }
  } else {
    NormAverages averages{*finish.norm_count, *finish.norm_mean, *finish.norm_variance};
    factor = factor_to(norm, z_clip_bound(norm, {m.z_alpha, m.z_threshold, m.z_warmup, m.z_eps, m.limit}, averages));
    if (!skips) {
      *finish.norm_count = averages.count;
      *finish.norm_mean = averages.mean;
      *finish.norm_variance = averages.variance;
    }
  }
  finish.clip_factor[0] = factor;
  if (factor < 1) decision.clips = 1;
}

__device__ __forceinline__ double loss_of(const FinishArguments& finish) {
  switch (static_cast<DType>(finish.loss_dtype)) {
    case DType::kFloat32:
      return *static_cast<const float*>(finish.loss);
    case DType::kFloat64:
      return *static_cast<const double*>(finish.loss);
    case DType::kBFloat16:
      return load(*static_cast<const BFloat16*>(finish.loss));
    case DType::kFloat16:
      return load(*static_cast<const Float16*>(finish.loss));
  }
  return 0.0;
}

// The step size, and the numbers that the step leaves behind, by one thread.
__device__ __forceinline__ void take_step(const FinishArguments& finish, Decision& decision) {
  const Modifiers& m = finish.modifiers;
  const double step = decision.step = finish.step == nullptr ? 0.0 : *finish.step + 1;
  double b_squared = square(m.b0) + m.alpha * step;
  if (m.step_size_kind() == StepSizeKind::kLoss) b_squared = add_loss(*finish.b_squared, loss_of(finish), m.alpha, m.c);
  decision.step_size = 1.0;
  if (m.step_size_kind() != StepSizeKind::kNone) *finish.lr_scale = decision.step_size = 1.0 / sqrt(b_squared);
  const bool synchronises = m.lookahead_k != 0 && remainder_of(step, m.lookahead_k) == 0;
  if (finish.numbers != nullptr) *finish.numbers = StepNumbers{step, decision.skips, synchronises ? 1 : 0};
  if (decision.skips != 0) return;
  if (finish.step != nullptr) *finish.step = step;
  if (m.step_size_kind() == StepSizeKind::kLoss) *finish.b_squared = b_squared;
  if (finish.sums.units == 0 || finish.counters == nullptr) return;
  finish.counters[0] += 1;
  if (decision.clips != 0) finish.counters[1] += 1;
}

// The rows as they are before anything is measured, and the numbers of state that the step will leave: it takes longer
// than what is left to do once the norms are known. By one block, before that is. `Functor`: that of the rule where the
// kernel knows it, and otherwise void.
template <class Functor>
TORCHCLIP_NOINLINE __device__ void make_rows(const FinishArguments& finish) {
  const RowArguments& rows = finish.rows;
  const double step = finish.step == nullptr ? 0.0 : *finish.step + 1, inverse = inverse_scale(finish);
#pragma unroll 1
  for (int index = static_cast<int>(threadIdx.x); index < rows.row_count; index += kThreads) {
    const RowSource& source = rows.sources[index];
    rows.rows[index].pipeline = pipeline_of(group_of(rows, source.group), finish.modifiers, step, inverse);
    double scalars[kMaxScalars] = {};
    visit_rule(rows.rule, [&](auto rule) {
      using Rule = typename decltype(rule)::type;
      if constexpr (std::is_void_v<Functor> || std::is_same_v<Functor, typename Rule::Functor>)
        set_coefficients<Rule>(rows, source, DirectionNorms{}, rows.rows[index], scalars);
    });
#pragma unroll
    for (int i = 0; i < kMaxScalars; ++i) rows.next_scalars[index * kMaxScalars + i] = scalars[i];
  }
  __syncthreads();
}

// What the decision adds to the rows, by one thread for each; a step that is taken moves the numbers of state on.
__device__ __forceinline__ void settle_rows(const FinishArguments& finish, const Decision& decision) {
  const RowArguments& rows = finish.rows;
#pragma unroll 1
  for (int index = static_cast<int>(threadIdx.x); index < rows.row_count; index += kThreads) {
    const RowSource& source = rows.sources[index];
    PipelineCoefficients<double>& pipeline = rows.rows[index].pipeline;
    double gradient_scale = pipeline.gradient_scale;
    if (source.clip_unit >= 0) gradient_scale *= finish.clip_factor[source.clip_unit];
    pipeline.gradient_scale = gradient_scale * decision.step_size;
    pipeline.value_limit *= decision.step_size;
    if (decision.skips != 0) continue;
#pragma unroll
    for (int i = 0; i < kMaxScalars; ++i)
      if (source.scalars[i] != nullptr)
        write_number(source.scalars[i], source.scalar_is_double[i] != 0, 0, rows.next_scalars[index * kMaxScalars + i]);
    if (source.fresh >= 0) rows.fresh[source.fresh] = 0;
  }
}

// All threads of one block. Not inlined: it is long, it is in many kernels, and none of them is there for its sake.
// `kByRows`: the pass may keep rows apart. The rows are made already.
template <bool kByRows>
TORCHCLIP_NOINLINE __device__ void finish_step(const FinishArguments& finish) {
  __shared__ Decision decision;
  const Modifiers& m = finish.modifiers;
  if (threadIdx.x == 0) decision = Decision{};
  __syncthreads();
  if (kByRows && finish.row_sums.long_row_count > 0) finish_long_rows(finish.row_sums, RowClip{m.limit, m.unit_eps});
  const bool decides = sum_units(finish.sums, [&](int unit, const Partial& sum, bool is_empty) {
    take_unit(finish, unit, sum, is_empty, decision);
  });
  if (!decides) return;
  __syncthreads();
  if (finish.group_clips != nullptr && finish.sums.units > 0) take_groups(finish, decision);
  const bool adapts =
      finish.sums.units > 0 && (m.clip_kind() == ClipKind::kPercentile || m.clip_kind() == ClipKind::kZScore);
  double percentile = -1.0;
  if (adapts && m.clip_kind() == ClipKind::kPercentile) percentile = window_percentile(finish, finish.grad_norm[0]);
  if (threadIdx.x == 0) {
    const bool overflows = finish.found_inf != nullptr && *finish.found_inf != 0;
    const bool refuses = decision.is_nonfinite != 0 && m.on_nonfinite() != NonFinite::kPropagate;
    decision.skips = overflows || refuses ? 1 : 0;
    if (adapts) take_adaptive(finish, percentile, decision.skips != 0, decision);
    take_step(finish, decision);
  }
  __syncthreads();
  settle_rows(finish, decision);
}

}  // namespace torchclip::cuda
