// The functor behind every rule with at most one buffer and no denominator but a root of a sum: SGD, NormalizedSGD,
// SGDClip, MomClip, MixClip, AdaGradNorm.
//
//     m <- momentum m + gradient_weight g
//     s <- s + g^2                                                      second slot
//     p <- p - (momentum_step m + gradient_step g)                      without the second slot
//     p <- p - (momentum_step m + gradient_step g) / (sqrt(s) + root_offset)
//
// Without a buffer (first slot not in use) m is g and counts once, through gradient_step.
#pragma once

#include "../scalar_ops.h"

namespace torchclip {

struct Momentum {
  static constexpr int kSlots = 2;
  static constexpr unsigned kSlotMasks[] = {0b00, 0b01, 0b10, 0b11}, kNonNegativeSlots = 0;
  static constexpr bool kReadsParameter = true;
  static constexpr bool kCountsZeros = false;
  static constexpr bool kMeasuresDirection = true;

  template <class C>
  struct Coefficients {
    C momentum;         // in [0, 1)
    C gradient_weight;  // 1 - dampening, or 1 - momentum for an average
    C momentum_step;    // lr times the weight of m in the direction
    C gradient_step;    // lr times the weight of g
    C root_offset;      // at least 0
  };
  // Coefficients that a step size of its own for each row is multiplied into.
  static constexpr unsigned kStepCoefficients = 0b01100;

  // What a pass that measures directions takes of a step.
  template <unsigned Slots, class K, class C>
  TORCHCLIP_HD static void accumulate(const Coefficients<K>& k, C gradient, C (&state)[kSlots]) {
    if constexpr ((Slots & 0b01) != 0) state[0] = k.momentum * state[0] + k.gradient_weight * gradient;
    if constexpr ((Slots & 0b10) != 0) state[1] += square(gradient);
  }

  // What the rules that clip themselves take the norm of: m, or the gradient, where no second sum is needed.
  template <unsigned Slots>
  static constexpr bool kMeasuresGradient = (Slots & 0b01) == 0;
  template <unsigned Slots, class C>
  TORCHCLIP_HD static C measured(C gradient, const C (&state)[kSlots]) {
    if constexpr ((Slots & 0b01) != 0) return state[0];
    return gradient;
  }

  template <unsigned Slots, class K, class P, class C>
  TORCHCLIP_HD static C step(const Coefficients<K>& k, P parameter, C gradient, C (&state)[kSlots]) {
    accumulate<Slots>(k, gradient, state);
    C change;
    if constexpr ((Slots & 0b01) != 0) {
      change = term(k.gradient_step, gradient) + k.momentum_step * state[0];
    } else {
      change = k.gradient_step * gradient;
    }
    if constexpr ((Slots & 0b10) != 0) change /= square_root(state[1]) + k.root_offset;
    return parameter - change;
  }
};

// Added to the root of a row's sum by AdaGradNorm's authors.
constexpr double kRowEps = 1e-10;

TORCHCLIP_HD Momentum::Coefficients<double> momentum_coefficients(double momentum, double gradient_weight,
                                                                  double momentum_step, double gradient_step) {
  return {momentum, gradient_weight, momentum_step, gradient_step, kRowEps};
}

// An average of gradients has momentum beta and weight 1 - beta; without a buffer both steps fall on g.
TORCHCLIP_HD Momentum::Coefficients<double> averaged_momentum(double momentum, double momentum_step,
                                                              double gradient_step) {
  if (momentum == 0) return momentum_coefficients(0.0, 1.0, 0.0, momentum_step + gradient_step);
  return momentum_coefficients(momentum, 1.0 - momentum, momentum_step, gradient_step);
}

}  // namespace torchclip
