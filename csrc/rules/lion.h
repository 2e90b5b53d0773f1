// Lion (Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, arXiv 2302.06675, Algorithm 2):
//
//     p <- p - lr sign(beta1 m + (1 - beta1) g)
//     m <- beta2 m + (1 - beta2) g
#pragma once

#include "rule.h"

namespace torchclip {

struct Lion {
  static constexpr const char* kName = "lion";
  using Functor = Lion;
  static constexpr int kSlots = 1, kScalars = 0;
  static constexpr unsigned kSlotMasks[] = {0b1}, kNonNegativeSlots = 0;
  static constexpr bool kReadsParameter = true, kCountsZeros = false, kMeasuresDirection = false;
  static constexpr bool kClipsItself = false, kSumsNorms = false;

  struct Hyperparameters {
    double lr, beta1, beta2;  // betas in [0, 1)
  };
  template <class C>
  struct Coefficients {
    C lr, beta1, step_weight, beta2, state_weight;  // weights: 1 - beta1, 1 - beta2
  };

  static unsigned slots(const Hyperparameters&) { return 0b1; }
  TORCHCLIP_HD static Coefficients<double> coefficients(const Hyperparameters& h, double*, bool, DirectionNorms) {
    return {h.lr, h.beta1, 1.0 - h.beta1, h.beta2, 1.0 - h.beta2};
  }

  template <unsigned Slots, class K, class P, class C>
  TORCHCLIP_HD static C step(const Coefficients<K>& k, P parameter, C gradient, C (&state)[kSlots]) {
    const C average = k.beta1 * state[0] + k.step_weight * gradient;
    state[0] = k.beta2 * state[0] + k.state_weight * gradient;
    const C sign = select(average > C(0), C(1), select(average < C(0), C(-1), average));  // 0 or NaN last
    return parameter - k.lr * sign;
  }
};

}  // namespace torchclip
