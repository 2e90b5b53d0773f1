// What the last block of the clip policy's pass decides: whether there is a step, and the coefficients that it
// multiplies with. Where nothing is measured, it comes before everything else.
#pragma once

#include <type_traits>

#include "../dtypes.h"
#include "../rules/registry.h"
#include "../step/make_coefficients.h"
#include "clip_factors.cuh"
#include "launch.h"
#include "steering.cuh"

namespace torchclip::cuda {

// Calls `visit` with the rule at that position of the registry.
template <class Visit>
__device__ __forceinline__ void visit_rule(int32_t rule, const Visit& visit) {
  for_each_rule(Rules{}, [&](auto each, int32_t position) {
    if (position == rule) visit(each);
  });
}

// Between memory and a struct of nothing but doubles, one at a time: a plain copy of what a pointer leads to would go
// byte by byte.
template <class Struct>
__device__ __forceinline__ Struct read_struct(const double* from) {
  double values[sizeof(Struct) / sizeof(double)];
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Struct) / sizeof(double)); ++i) values[i] = from[i];
  Struct result;
  memcpy(&result, values, sizeof(Struct));
  return result;
}
template <class Struct>
__device__ __forceinline__ void write_struct(const Struct& from, double* to) {
  double values[sizeof(Struct) / sizeof(double)];
  memcpy(values, &from, sizeof(Struct));
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Struct) / sizeof(double)); ++i) to[i] = values[i];
}

template <class Rule>
__device__ __forceinline__ typename Rule::Hyperparameters hyperparameters_of(const GroupNumbers& group) {
  static_assert(sizeof(typename Rule::Hyperparameters) <= sizeof(group.hyperparameters));
  auto hyperparameters = read_struct<typename Rule::Hyperparameters>(group.hyperparameters);
  hyperparameters.lr = lr_of(group);
  return hyperparameters;
}

__device__ __forceinline__ PipelineCoefficients<double> pipeline_of(const GroupNumbers& group,
                                                                    const Modifiers& modifiers, double step,
                                                                    double inverse_grad_scale) {
  return make_coefficients(lr_of(group), group.weight_decay, group.decoupled != 0, group.maximize != 0, modifiers, step,
                           inverse_grad_scale)
      .pipeline;
}

// The rule's coefficients of one set of tensors. `scalars`: becomes the numbers of state as this step leaves them.
// Returns the factor of a rule that clips itself.
template <class Rule>
__device__ __forceinline__ double set_coefficients(const CoefficientArguments& coefficients,
                                                   const CoefficientSource& source, DirectionNorms norms,
                                                   Coefficients& set, double (&scalars)[kMaxScalars]) {
  const auto hyperparameters = hyperparameters_of<Rule>(group_of(coefficients, source.group));
#pragma unroll
  for (int i = 0; i < Rule::kScalars; ++i)
    scalars[i] = read_number(source.scalars[i], source.scalar_is_double[i] != 0, 0);
  const bool is_fresh = source.fresh >= 0 && coefficients.fresh[source.fresh] != 0;
  write_struct(Rule::coefficients(hyperparameters, scalars, is_fresh, norms), set.rule);
  if constexpr (Rule::Functor::kCountsZeros) set.rule[kThreshold] *= threshold_scale_of(coefficients, source.group);
  if constexpr (Rule::kClipsItself) return Rule::direction_factor(hyperparameters, norms);
  return 1.0;
}

__device__ __forceinline__ double inverse_scale(const FinishArguments& finish) {
  return finish.grad_scale == nullptr ? 1.0 : 1.0 / static_cast<double>(*finish.grad_scale);
}

__device__ __forceinline__ double read_loss(const void* loss, int32_t dtype) {
  switch (static_cast<DType>(dtype)) {
    case DType::kFloat32:
      return *static_cast<const float*>(loss);
    case DType::kFloat64:
      return *static_cast<const double*>(loss);
    case DType::kBFloat16:
      return load(*static_cast<const BFloat16*>(loss));
    case DType::kFloat16:
      return load(*static_cast<const Float16*>(loss));
  }
  return 0.0;
}
__device__ __forceinline__ double loss_of(const FinishArguments& finish) {
  return read_loss(finish.loss, finish.loss_dtype);
}

// A GradScaler says so, here or in another process.
__device__ __forceinline__ bool overflows(const FinishArguments& finish) {
  if (finish.common != nullptr) return finish.common[kOverflows] != 0;
  return finish.found_inf != nullptr && *finish.found_inf != 0;
}

// No process has a gradient: the step comes to nothing, and is none.
__device__ __forceinline__ bool is_idle(const FinishTables& finish) {
  return finish.common != nullptr && finish.common[kGradients] == 0;
}

// The processes go by different things, or have in a step of which the hosts have not heard yet: n q is not s², of
// whole numbers in float64.
__device__ __forceinline__ bool disagrees(const FinishTables& finish) {
  if (finish.common == nullptr) return false;
  const double* const agreed = finish.common + kAgreed;
  return finish.counters[kDisagreed] != 0 || agreed[0] * agreed[2] != square(agreed[1]);
}
// So that the next steps know it, too. By one thread.
__device__ __forceinline__ void keep_disagreement(const FinishTables& finish) {
  if (disagrees(finish)) finish.counters[kDisagreed] = 1;
}

// Norms of tensors that another process alone holds are not finite.
__device__ __forceinline__ bool lacks_norms(const FinishArguments& finish) {
  return finish.common != nullptr && finish.common[kLost] != 0 && finish.modifiers.scope() == Scope::kTensor;
}

// The factor of the step size on the gradients of a group.
__device__ __forceinline__ double step_size_of(const FinishArguments& finish, const Decision& decision,
                                               const GroupNumbers& group) {
  const bool by_lr = finish.modifiers.step_size_kind() == StepSizeKind::kPolyak;
  return by_lr ? polyak_factor(decision.step_size, lr_of(group)) : decision.step_size;
}

// PolyakStep's step, by one thread. `square`: of the joint norm after clipping.
__device__ __forceinline__ double take_polyak(const FinishArguments& finish, double square, bool skips) {
  const Modifiers& m = finish.modifiers;
  const double loss = loss_of(finish), before = finish.polyak_step == nullptr ? 0.0 : *finish.polyak_step;
  const double step = polyak_step(loss, square, m.c, m.alpha, m.step_eps, m.growth, before);
  const bool remembers = finish.polyak_step != nullptr && !skips && is_finite(step) && is_finite(loss);
  if (remembers) *finish.polyak_step = step;
  return step;
}

// The step size, and the numbers that the step leaves behind, by one thread. `square_left`: see take_polyak().
__device__ __forceinline__ void take_step(const FinishArguments& finish, double square_left, Decision& decision) {
  const Modifiers& m = finish.modifiers;
  const double step = decision.step = finish.step == nullptr ? 0.0 : *finish.step + 1;
  double b_squared = square(m.b0) + m.alpha * step;
  if (m.step_size_kind() == StepSizeKind::kLoss) b_squared = add_loss(*finish.b_squared, loss_of(finish), m.alpha, m.c);
  decision.step_size = 1.0;
  const bool polyak = m.step_size_kind() == StepSizeKind::kPolyak;
  if (m.step_size_kind() != StepSizeKind::kNone) {
    decision.step_size = polyak ? take_polyak(finish, square_left, decision.skips != 0) : 1.0 / sqrt(b_squared);
    *finish.lr_scale = step_size_of(finish, decision, group_of(finish.coefficients, 0));
  }
  const bool synchronises = m.lookahead_k != 0 && remainder_of(step, m.lookahead_k) == 0;
  if (finish.numbers != nullptr)
    *finish.numbers = StepNumbers{step, decision.skips, synchronises ? 1 : 0,
                                  average_weight(m.lookahead_alpha, m.ema_warmup != 0, step)};
  if (finish.skipped != nullptr) *finish.skipped = is_idle(finish) ? 0 : decision.skips;
  if (finish.counters != nullptr && !is_idle(finish)) {
    finish.counters[2] += 1;
    finish.counters[3] += decision.skips;
  }
  if (decision.skips != 0) return;
  if (finish.step != nullptr) *finish.step = step;
  if (m.step_size_kind() == StepSizeKind::kLoss) *finish.b_squared = b_squared;
  if (finish.sums.units == 0 || finish.counters == nullptr) return;
  finish.counters[0] += 1;
  if (decision.clips != 0) finish.counters[1] += 1;
}

template <class Functor>
constexpr bool kMayCountZeros = Functor::kCountsZeros;
template <>
constexpr bool kMayCountZeros<void> = true;

// The coefficients as they are before anything is measured, and the numbers of state that the step will leave: it takes
// longer than what is left to do once the norms are known. By one block, before that is. `Functor`: that of the rule
// where the kernel knows it, and otherwise void.
template <class Functor>
TORCHCLIP_NOINLINE __device__ void fill_coefficients(const FinishArguments& finish) {
  const CoefficientArguments& coefficients = finish.coefficients;
  const double step = finish.step == nullptr ? 0.0 : *finish.step + 1, inverse = inverse_scale(finish);
  if constexpr (kMayCountZeros<Functor>)
    if (coefficients.zeros != nullptr) steer_thresholds(coefficients);
#pragma unroll 1
  for (int index = static_cast<int>(threadIdx.x); index < coefficients.count; index += kThreads) {
    const CoefficientSource& source = coefficients.sources[index];
    coefficients.sets[index].pipeline =
        pipeline_of(group_of(coefficients, source.group), finish.modifiers, step, inverse);
    double scalars[kMaxScalars] = {};
    visit_rule(coefficients.rule, [&](auto rule) {
      using Rule = typename decltype(rule)::type;
      if constexpr (std::is_void_v<Functor> || std::is_same_v<Functor, typename Rule::Functor>)
        set_coefficients<Rule>(coefficients, source, DirectionNorms{}, coefficients.sets[index], scalars);
    });
#pragma unroll
    for (int i = 0; i < kMaxScalars; ++i) coefficients.next_scalars[index * kMaxScalars + i] = scalars[i];
  }
  __syncthreads();
}

// What the decision adds to the coefficients, by one thread for each set of them; a step that is taken moves the
// numbers of state on.
__device__ __forceinline__ void settle_coefficients(const FinishArguments& finish, const Decision& decision) {
  const CoefficientArguments& coefficients = finish.coefficients;
  if (coefficients.zeros != nullptr && decision.skips == 0) keep_threshold_scales(coefficients);
#pragma unroll 1
  for (int index = static_cast<int>(threadIdx.x); index < coefficients.count; index += kThreads) {
    const CoefficientSource& source = coefficients.sources[index];
    PipelineCoefficients<double>& pipeline = coefficients.sets[index].pipeline;
    double gradient_scale = pipeline.gradient_scale;
    if (source.clip_unit >= 0) gradient_scale *= finish.clip_factor[source.clip_unit];
    const double step_size = step_size_of(finish, decision, group_of(coefficients, source.group));
    pipeline.gradient_scale = gradient_scale * step_size;
    pipeline.value_limit *= step_size;
    if (decision.skips != 0) continue;
#pragma unroll
    for (int i = 0; i < kMaxScalars; ++i)
      if (source.scalars[i] != nullptr)
        write_number(source.scalars[i], source.scalar_is_double[i] != 0, 0,
                     coefficients.next_scalars[index * kMaxScalars + i]);
    if (source.fresh >= 0) coefficients.fresh[source.fresh] = 0;
  }
}

// Has SkipSpikes look at the step. All threads must call it.
__device__ __forceinline__ void find_spikes(const FinishArguments& finish, Decision& decision) {
  const Modifiers& m = finish.modifiers;
  bool found = false;
  if (m.skip_norm != 0) found = stands_out(sqrt(decision.joint_square), finish.skip_norms, finish.skip_norm_count, m);
  if (m.skip_loss != 0) {
    const double loss = threadIdx.x == 0 ? loss_of(finish) : 0.0;
    found = stands_out(loss, finish.skip_losses, finish.skip_loss_count, m) || found;
  }
  if (threadIdx.x == 0 && found) decision.skips = 1;
  __syncthreads();
}

// All threads of one block. Not inlined: it is long, it is in many kernels, and none of them is there for its sake.
// `kByRows`: the pass may keep rows apart. The coefficients are filled already.
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
  if (m.takes_joint_norm() && finish.sums.units > 0) take_joint_norm(finish, decision);
  if (finish.group_clips != nullptr && finish.sums.units > 0) take_groups(finish, decision);
  const bool adapts =
      finish.sums.units > 0 && (m.clip_kind() == ClipKind::kPercentile || m.clip_kind() == ClipKind::kZScore);
  double percentile = -1.0;
  if (adapts && m.clip_kind() == ClipKind::kPercentile) percentile = window_percentile(finish, finish.grad_norm[0]);
  if (threadIdx.x == 0) {
    const bool is_nonfinite = decision.is_nonfinite != 0 || lacks_norms(finish);
    const bool refuses = is_nonfinite && m.on_nonfinite() != NonFinite::kPropagate;
    decision.skips = overflows(finish) || refuses || is_idle(finish) || disagrees(finish) ? 1 : 0;
    keep_disagreement(finish);
  }
  __syncthreads();
  if (m.finds_spikes() && decision.skips == 0) find_spikes(finish, decision);
  if (threadIdx.x == 0 && adapts) take_adaptive(finish, percentile, decision.skips != 0, decision);
  if (m.clip_kind() == ClipKind::kTensorBound && finish.sums.units > 0) take_bounds(finish, decision);
  double square_left = 0;
  if (m.step_size_kind() == StepSizeKind::kPolyak) {
    __syncthreads();
    square_left = clipped_square(finish, decision);
  }
  if (threadIdx.x == 0) take_step(finish, square_left, decision);
  __syncthreads();
  settle_coefficients(finish, decision);
}

}  // namespace torchclip::cuda
