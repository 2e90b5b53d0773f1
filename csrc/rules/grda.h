// gRDA, generalised regularised dual averaging (Chao, Wang, Xing, Cheng, "Directional Pruning of Deep Neural Networks",
// NeurIPS 2020, arXiv 2006.09358, equation (gRDA)):
//
//     accumulator <- accumulator - lr g
//     l1          <- l1 + c lr^(mu + 1/2) (t^mu - (t - 1)^mu)
//     p           <- sign(accumulator) max(|accumulator| - l1, 0)
//
// The parameter is written and never read: the accumulator starts as a copy of it.
#pragma once

#include "../scalar_ops.h"
#include "rule.h"

namespace torchclip {

struct SoftThreshold {
  static constexpr int kSlots = 1;
  static constexpr unsigned kSlotMasks[] = {0b1};
  static constexpr bool kReadsParameter = false;
  static constexpr bool kCountsZeros = true;
  static constexpr bool kMeasuresDirection = false;

  template <class C>
  struct Coefficients {
    C lr;
    C threshold;  // l1 after this step
  };

  template <unsigned Slots, class C>
  TORCHCLIP_HD static C step(const Coefficients<C>& k, C, C gradient, C (&state)[kSlots]) {
    state[0] -= k.lr * gradient;
    return with_sign_of(at_least(magnitude(state[0]) - k.threshold, C(0)), state[0]);
  }
};

struct Grda {
  static constexpr const char* kName = "grda";
  using Functor = SoftThreshold;
  static constexpr bool kClipsItself = false;
  static constexpr bool kSumsNorms = false;
  static constexpr int kScalars = 2;  // step, l1

  struct Hyperparameters {
    double lr;
    double c;   // at least 0
    double mu;  // above 0
  };

  static unsigned slots(const Hyperparameters&) { return 0b1; }

  TORCHCLIP_HD static SoftThreshold::Coefficients<double> coefficients(const Hyperparameters& h, double* scalars, bool,
                                                                       DirectionNorms) {
    const double step = scalars[0] += 1;
    scalars[1] += h.c * pow(h.lr, h.mu + 0.5) * (pow(step, h.mu) - pow(step - 1, h.mu));
    return {h.lr, scalars[1]};
  }
};

}  // namespace torchclip
