// The functor behind every rule whose parameter is an accumulator drawn to zero: gRDA, LinBreg, AdaBreg.
//
//     m <- beta1 m + gradient_weight g                                  second slot; without it m is g
//     s <- beta2 s + square_weight g^2                                  third slot
//     v <- v - step m,   or  v - step m / (sqrt(s) + root_offset)       with the third slot
//     p <- scale sign(v) max(|v| - threshold, 0)
//
// The parameter is written and never read: v starts as a function of it.
#pragma once

#include "../scalar_ops.h"

namespace torchclip {

struct SoftThreshold {
  static constexpr int kSlots = 3;
  static constexpr unsigned kSlotMasks[] = {0b001, 0b011, 0b111}, kNonNegativeSlots = 0;
  static constexpr bool kReadsParameter = false;
  static constexpr bool kCountsZeros = true;
  static constexpr bool kMeasuresDirection = false;

  template <class C>
  struct Coefficients {
    C step;
    C threshold;  // at least 0
    C scale;      // above 0
    C beta1;      // in [0, 1)
    C gradient_weight;
    C beta2;  // in [0, 1)
    C square_weight;
    C root_offset;
  };

  template <unsigned Slots, class K, class P, class C>
  TORCHCLIP_HD static C step(const Coefficients<K>& k, P, C gradient, C (&state)[kSlots]) {
    C direction = gradient;
    if constexpr ((Slots & 0b010) != 0) direction = state[1] = k.beta1 * state[1] + k.gradient_weight * gradient;
    if constexpr ((Slots & 0b100) != 0) {
      state[2] = k.beta2 * state[2] + k.square_weight * gradient * gradient;
      direction /= square_root(state[2]) + k.root_offset;
    }
    state[0] -= k.step * direction;
    return k.scale * with_sign_of(at_least(magnitude(state[0]) - k.threshold, C(0)), state[0]);
  }
};

}  // namespace torchclip
