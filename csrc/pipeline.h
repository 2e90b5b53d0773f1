// The one place that writes the order of one step for one element: scale (AMP, sign, clip factor, step size), clamp,
// dropout, noise, coupled decay, decoupled decay, the rule, dropout of the step, Lookahead.
#pragma once

#include "scalar_ops.h"

namespace torchclip {

// What the pipeline multiplies with, the same for every rule.
template <class C>
struct PipelineCoefficients {
  C gradient_scale;  // 1 / grad_scale, times -1 to maximise, times the clip factor and the step size's
  C value_limit;     // the bound of ClipByValue times the step size's factor, at least 0
  C noise_scale;     // the standard deviation of GradientNoise, at least 0
  C weight_decay;    // coupled decay
  C shrink;          // 1 - lr weight_decay of decoupled decay, else 1
};

// Stages that cost something when they are on, as bits of a template argument.
enum Stage : unsigned {
  kValueClip = 1u,
  kGradientDropout = 2u,
  kGradientNoise = 4u,
  kCoupledDecay = 8u,
  kLRDropout = 16u,
};
// What happens to a gradient before it meets its parameter.
constexpr unsigned kPerturbations = kValueClip | kGradientDropout | kGradientNoise;

template <class Functor, unsigned Stages>
constexpr bool kNeedsParameter = Functor::kReadsParameter || (Stages & kCoupledDecay) != 0;

// The draws for one element.
struct Draws {
  bool keeps_gradient = true;
  float normal = 0;
  bool keeps_step = true;
};

// A word of 32 random bits drops its element with probability threshold / 2^32.
TORCHCLIP_HD bool keeps(uint32_t word, uint32_t threshold) { return word >= threshold; }

// The gradient before decay.
template <unsigned Stages, class K, class C>
TORCHCLIP_HD C perturb(const PipelineCoefficients<K>& k, C gradient, const Draws& draws) {
  gradient *= k.gradient_scale;
  if constexpr ((Stages & kValueClip) != 0) gradient = at_least(at_most(gradient, k.value_limit), -k.value_limit);
  if constexpr ((Stages & kGradientDropout) != 0) gradient = draws.keeps_gradient ? gradient : C(0);
  if constexpr ((Stages & kGradientNoise) != 0) gradient += k.noise_scale * static_cast<C>(draws.normal);
  return gradient;
}

// The gradient as the rule sees it.
template <unsigned Stages, class K, class C>
TORCHCLIP_HD C prepare(const PipelineCoefficients<K>& k, C gradient, C parameter, const Draws& draws) {
  if constexpr (Stages == kCoupledDecay) return gradient * k.gradient_scale + k.weight_decay * parameter;
  gradient = perturb<Stages>(k, gradient, draws);
  // Kernels that serve every stage come here with a decay of 0 too.
  if constexpr ((Stages & kCoupledDecay) != 0)
    gradient += (Stages & kPerturbations) != 0 ? term(k.weight_decay, parameter) : k.weight_decay * parameter;
  return gradient;
}

// One element of the update pass: advances `state`, returns the new parameter.
template <class Functor, unsigned Slots, unsigned Stages, class K, class C>
TORCHCLIP_HD C update(const PipelineCoefficients<K>& pipeline, const typename Functor::template Coefficients<K>& rule,
                      C parameter, C gradient, const Draws& draws, C (&state)[Functor::kSlots]) {
  gradient = prepare<Stages>(pipeline, gradient, parameter, draws);
  const auto decayed = parameter * pipeline.shrink;  // as the rule takes it: a vector's product may yet be fused
  const C stepped = Functor::template step<Slots>(rule, decayed, gradient, state);
  if constexpr ((Stages & kLRDropout) != 0) return draws.keeps_step ? stepped : decayed;
  return stepped;
}

// Lookahead's slow weights after a round, which the parameter becomes; or WeightEMA's average.
template <class C>
TORCHCLIP_HD C synchronise(C slow, C parameter, C alpha) {
  return slow + alpha * (parameter - slow);
}

}  // namespace torchclip
