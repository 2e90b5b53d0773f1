// The functor behind every rule with at most one buffer and no denominator: SGD, NormalizedSGD, SGDClip, MomClip,
// MixClip.
//
//     m <- momentum m + gradient_weight g
//     p <- p - (momentum_step m + gradient_step g)
//
// Without a buffer (no slot in use) m is g and counts once, through gradient_step.
#pragma once

#include "../scalar_ops.h"

namespace torchclip {

struct Momentum {
  static constexpr int kSlots = 1;
  static constexpr unsigned kSlotMasks[] = {0b0, 0b1};
  static constexpr bool kReadsParameter = true;
  static constexpr bool kCountsZeros = false;
  static constexpr bool kMeasuresDirection = true;

  template <class C>
  struct Coefficients {
    C momentum;         // in [0, 1)
    C gradient_weight;  // 1 - dampening, or 1 - momentum for an average
    C momentum_step;    // lr times the weight of m in the direction
    C gradient_step;    // lr times the weight of g
  };
  static constexpr const char* kCoefficientNames[] = {"momentum", "gradient_weight", "momentum_step", "gradient_step"};

  template <unsigned Slots, class C>
  TORCHCLIP_HD static void accumulate(const Coefficients<C>& k, C gradient, C (&state)[kSlots]) {
    if constexpr (Slots != 0) state[0] = k.momentum * state[0] + k.gradient_weight * gradient;
  }

  // What the rules that clip themselves take the norm of.
  template <unsigned Slots, class C>
  TORCHCLIP_HD static C measured(C gradient, const C (&state)[kSlots]) {
    if constexpr (Slots != 0) return state[0];
    return gradient;
  }

  template <unsigned Slots, class C>
  TORCHCLIP_HD static C apply(const Coefficients<C>& k, C parameter, C gradient, const C (&state)[kSlots]) {
    C step = k.gradient_step * gradient;
    if constexpr (Slots != 0) step += k.momentum_step * state[0];
    return parameter - step;
  }
};

// An average of gradients has momentum beta and weight 1 - beta; without a buffer both steps fall on g.
TORCHCLIP_HD Momentum::Coefficients<double> averaged_momentum(double momentum, double momentum_step,
                                                              double gradient_step) {
  if (momentum == 0) return {0.0, 1.0, 0.0, momentum_step + gradient_step};
  return {momentum, 1.0 - momentum, momentum_step, gradient_step};
}

}  // namespace torchclip
