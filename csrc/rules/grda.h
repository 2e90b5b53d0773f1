// gRDA, generalised regularised dual averaging (Chao, Wang, Xing, Cheng, "Directional Pruning of Deep Neural Networks",
// NeurIPS 2020, arXiv 2006.09358, equation (gRDA)):
//
//     accumulator <- accumulator - lr g
//     l1          <- l1 + c lr^(mu + 1/2) (t^mu - (t - 1)^mu)
//     p           <- sign(accumulator) max(|accumulator| - l1, 0)
//
// The accumulator starts as a copy of p.
#pragma once

#include "rule.h"
#include "soft_threshold.h"

namespace torchclip {

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

  static unsigned slots(const Hyperparameters&) { return 0b001; }

  TORCHCLIP_HD static SoftThreshold::Coefficients<double> coefficients(const Hyperparameters& h, double* scalars, bool,
                                                                       DirectionNorms) {
    const double step = scalars[0] += 1;
    scalars[1] += h.c * pow(h.lr, h.mu + 0.5) * (pow(step, h.mu) - pow(step - 1, h.mu));
    return {h.lr, scalars[1], 1.0};
  }
};

}  // namespace torchclip
