// NormalizedSGD (Zhang, Jin, Fang, Wang, NeurIPS 2020, arXiv 2010.02519, section 2):
//
//     m <- momentum m + (1 - momentum) g
//     p <- p - lr m / (|m| + eps)
#pragma once

#include "momentum.h"
#include "rule.h"

namespace torchclip {

struct NormalizedSgd {
  static constexpr const char* kName = "normalized_sgd";
  using Functor = Momentum;
  static constexpr bool kClipsItself = true;
  static constexpr bool kSumsNorms = false;
  static constexpr int kScalars = 0;

  struct Hyperparameters {
    double lr;
    double momentum;  // in [0, 1)
    double eps;       // at least 0
  };

  static unsigned slots(const Hyperparameters& h) { return h.momentum != 0 ? 0b1 : 0b0; }

  // The factor on lr m. With eps = 0 a zero direction stays a zero step.
  TORCHCLIP_HD static double direction_factor(const Hyperparameters& h, DirectionNorms norms) {
    const double length = norms.direction + h.eps;
    return length == 0 ? 1.0 : 1.0 / length;
  }

  TORCHCLIP_HD static Momentum::Coefficients<double> coefficients(const Hyperparameters& h, double*, bool,
                                                                  DirectionNorms norms) {
    return averaged_momentum(h.momentum, h.lr * direction_factor(h, norms), 0.0);
  }
};

}  // namespace torchclip
