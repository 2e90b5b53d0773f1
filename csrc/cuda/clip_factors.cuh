// From the sums of a norm pass to norms, and from norms to the factors of the clip policies.
#pragma once

#include "sums.cuh"

namespace torchclip::cuda {

// What the threads of the block tell one another.
struct Decision {
  double step;       // the number of this step
  double step_size;  // a factor on all gradients
  int is_nonfinite;  // a norm that counts is not finite
  int clips;         // a factor is below 1
  int skips;
  double joint_square;  // of the norm of all gradients, where Modifiers::takes_joint_norm()
  double own_square;    // of those of groups that no policy measures
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
  const bool counts = is_remembered(norm);
  const int window = static_cast<int>(m.window);
  const int place = place_in_window(finish);
  const double count = norms_so_far(finish) + (counts ? 1 : 0);
  const int remembered = static_cast<int>(at_most(count, m.window));
  if (remembered == 0) return -1.0;
  const auto value = [&](int i) {
    const double own = counts && i == place ? norm : finish.norm_window[i];
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

// The joint norm of all units. All threads must call it, behind take_unit() and before take_groups().
__device__ __forceinline__ void take_joint_norm(const FinishArguments& finish, Decision& decision) {
  double sums[2] = {};
  for (int unit = static_cast<int>(threadIdx.x); unit < finish.sums.units; unit += kThreads) {
    const double sum = finish.group_clips == nullptr ? square(finish.grad_norm[unit]) : finish.clip_factor[unit];
    if (sum == kNoSum) continue;
    sums[0] += sum;
    if (finish.group_clips != nullptr && !finish.group_clips[unit].is_measured()) sums[1] += sum;
  }
  sum_over_block(sums);
  if (threadIdx.x == 0) {
    decision.joint_square = sums[0];
    decision.own_square = sums[1];
  }
  __syncthreads();
}

// The square of the joint norm after clipping, in thread 0. All threads must call it, once all factors are known.
__device__ __forceinline__ double clipped_square(const FinishArguments& finish, const Decision& decision) {
  double sums[1] = {};
  for (int unit = static_cast<int>(threadIdx.x); unit < finish.sums.units; unit += kThreads) {
    // Groups in one norm have all the whole of it, which counts once.
    if (finish.group_clips != nullptr && finish.group_clips[unit].unit != unit) continue;
    sums[0] += square(finish.grad_norm[unit] * finish.clip_factor[unit]);
  }
  sum_over_block(sums);
  return sums[0] + decision.own_square;
}

// AdaGC's factors, and its bounds where the step is taken. All threads must call it.
__device__ __forceinline__ void take_bounds(const FinishArguments& finish, Decision& decision) {
  const Modifiers& m = finish.modifiers;
  const double joint = sqrt(decision.joint_square), step = *finish.norm_count + 1;
  const TensorBoundSettings settings{m.limit, m.relative_limit, m.z_alpha, m.z_warmup};
  for (int unit = static_cast<int>(threadIdx.x); unit < finish.sums.units; unit += kThreads) {
    double bound = finish.norm_bounds[unit];
    const double factor = tensor_bound_factor(finish.grad_norm[unit], joint, step, settings, bound);
    finish.clip_factor[unit] = factor;
    if (factor < 1) atomicOr(&decision.clips, 1);
    if (decision.skips == 0) finish.norm_bounds[unit] = bound;
  }
  __syncthreads();  // all have read the number of the step
  if (threadIdx.x == 0 && decision.skips == 0) *finish.norm_count = step;
}

// Whether SkipSpikes finds that a value stands out, or is not finite; one that is finite is remembered. The same in all
// threads of the block, which must call it. `value`: of thread 0.
__device__ __forceinline__ bool stands_out(double value, double* values, double* counted, const Modifiers& m) {
  __shared__ double mean;
  __shared__ bool found;
  const double count = static_cast<double>(whole_number(*counted)), held = at_most(count, m.skip_window);
  double sums[1] = {};
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(held); i += kThreads) sums[0] += values[i];
  sum_over_block(sums);
  if (threadIdx.x == 0) mean = sums[0] / held;
  __syncthreads();
  double squares[1] = {};
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(held); i += kThreads)
    squares[0] += square(values[i] - mean);
  sum_over_block(squares);
  if (threadIdx.x == 0) {
    found = !is_finite(value);
    if (!found) {
      found = !is_unjudged(held, m.skip_window) && value - mean > m.skip_sigma * sqrt(squares[0] / (held - 1));
      values[remainder_of(count, m.skip_window)] = value;
      *counted = count + 1;
    }
  }
  __syncthreads();
  return found;
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
    if (!skips && is_remembered(norm)) {
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

}  // namespace torchclip::cuda
