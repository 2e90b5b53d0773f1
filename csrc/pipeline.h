// The one place that writes the order of one step for one element: scale (AMP, sign, clip factor), clamp, coupled
// decay, decoupled decay, the rule.
#pragma once

#include "scalar_ops.h"

namespace torchclip {

// What the pipeline multiplies with, the same for every rule.
template <class C>
struct PipelineCoefficients {
  C gradient_scale;  // 1 / grad_scale, times -1 to maximise, times the clip factor
  C value_limit;     // the bound of ClipByValue, at least 0
  C weight_decay;    // coupled decay
  C shrink;          // 1 - lr weight_decay of decoupled decay, else 1
};

// Stages that cost something when they are on, as bits of a template argument.
enum Stage : unsigned { kValueClip = 1u, kCoupledDecay = 2u };
constexpr unsigned kStageSets = 4;

template <class Functor, unsigned Stages>
constexpr bool kNeedsParameter = Functor::kReadsParameter || (Stages & kCoupledDecay) != 0;

// The gradient as the rule sees it.
template <unsigned Stages, class C>
TORCHCLIP_HD C prepare(const PipelineCoefficients<C>& k, C gradient, C parameter) {
  gradient *= k.gradient_scale;
  if constexpr ((Stages & kValueClip) != 0) gradient = at_least(at_most(gradient, k.value_limit), -k.value_limit);
  if constexpr ((Stages & kCoupledDecay) != 0) gradient += k.weight_decay * parameter;
  return gradient;
}

// One element of the update pass: advances `state`, returns the new parameter.
template <class Functor, unsigned Slots, unsigned Stages, class C>
TORCHCLIP_HD C update(const PipelineCoefficients<C>& pipeline, const typename Functor::template Coefficients<C>& rule,
                      C parameter, C gradient, C (&state)[Functor::kSlots]) {
  gradient = prepare<Stages>(pipeline, gradient, parameter);
  Functor::template accumulate<Slots>(rule, gradient, state);
  return Functor::template apply<Slots>(rule, parameter * pipeline.shrink, gradient, state);
}

}  // namespace torchclip
