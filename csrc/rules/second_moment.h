// The functor behind every rule with two moments: Adam, AdamW, AMSGrad, NAdam, RAdam.
//
//     m <- beta1 m + gradient_weight g
//     v <- beta2 v + square_weight g^2
//     p <- p - (momentum_step m + gradient_step g) / (root_scale sqrt(v) + root_offset)
//
// Nesterov's form has a gradient_step; a rule that leaves the second moment out for a while has root_scale 0,
// root_offset 1 and no gradient_step. With the third slot in use v is the largest so far.
#pragma once

#include "../scalar_ops.h"

namespace torchclip {

struct SecondMoment {
  static constexpr int kSlots = 3;
  static constexpr unsigned kSlotMasks[] = {0b011, 0b111}, kNonNegativeSlots = 0b110;
  static constexpr bool kReadsParameter = true;
  static constexpr bool kCountsZeros = false;
  static constexpr bool kMeasuresDirection = false;

  template <class C>
  struct Coefficients {
    C beta1;            // in [0, 1)
    C gradient_weight;  // 1 - beta1
    C beta2;            // in [0, 1)
    C square_weight;    // 1 - beta2
    C momentum_step;    // lr times the weight of m
    C gradient_step;    // lr times the weight of g
    C root_scale;
    C root_offset;
  };

  template <unsigned Slots, class K, class P, class C>
  TORCHCLIP_HD static C step(const Coefficients<K>& k, P parameter, C gradient, C (&state)[kSlots]) {
    state[0] = k.beta1 * state[0] + k.gradient_weight * gradient;
    state[1] = k.beta2 * state[1] + k.square_weight * gradient * gradient;
    if constexpr ((Slots & 0b100) != 0) state[2] = larger(state[1], state[2]);
    const C second = (Slots & 0b100) != 0 ? state[2] : state[1];
    // Without the second moment: its root may be infinite, since v overflows before m does, and 0 times it is a NaN.
    // Chosen and not returned early: a loop that the compiler does not make two of would divide twice.
    const bool has_root = k.root_scale != K(0);
    const C divisor = has_root ? k.root_scale * square_root(second) + k.root_offset : C(k.root_offset);
    const auto momentum = k.momentum_step * state[0];
    const C numerator = has_root ? momentum + k.gradient_step * gradient : C(momentum);
    return parameter - numerator / divisor;
  }
};

}  // namespace torchclip
