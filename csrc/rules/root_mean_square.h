// The functor behind the rules that divide by the root of a sum of squares: RMSprop, plain, centered or with momentum,
// and Adagrad.
//
//     s <- square_decay s + square_weight g^2
//     a <- square_decay a + square_weight g                      centered, third slot
//     d  = sqrt(s - a^2) + eps,  or sqrt(s) + eps
//     b <- momentum b + g / d,  p <- p - lr b                     with momentum, second slot
//     p <- p - lr g / d                                          without
#pragma once

#include "../scalar_ops.h"

namespace torchclip {

struct RootMeanSquare {
  static constexpr int kSlots = 3;
  static constexpr unsigned kSlotMasks[] = {0b001, 0b011, 0b101, 0b111}, kNonNegativeSlots = 0b001;
  static constexpr bool kReadsParameter = true;
  static constexpr bool kCountsZeros = false;
  static constexpr bool kMeasuresDirection = false;

  template <class C>
  struct Coefficients {
    C square_decay;   // alpha; 1 for a sum
    C square_weight;  // 1 - alpha; 1 for a sum
    C momentum;       // at least 0
    C step;           // the learning rate of this step
    C eps;            // at least 0
  };

  template <unsigned Slots, class K, class P, class C>
  TORCHCLIP_HD static C step(const Coefficients<K>& k, P parameter, C gradient, C (&state)[kSlots]) {
    state[0] = k.square_decay * state[0] + k.square_weight * gradient * gradient;
    if constexpr ((Slots & 0b100) != 0) state[2] = k.square_decay * state[2] + k.square_weight * gradient;
    C variance = state[0];
    // Rounding can take it below zero where the gradient hardly varies.
    if constexpr ((Slots & 0b100) != 0) variance = at_least(variance - state[2] * state[2], C(0));
    C direction = gradient / (square_root(variance) + k.eps);
    if constexpr ((Slots & 0b010) != 0) direction = state[1] = k.momentum * state[1] + direction;
    return parameter - k.step * direction;
  }
};

}  // namespace torchclip
