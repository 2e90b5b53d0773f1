// AdaGrad-Norm (Ward, Wu, Bottou, AdaGrad stepsizes, ICML 2019, arXiv 1806.01811, Algorithm 1; over rows the baseline
// of Wu, Xie, Du, Ward, AAAI 2022, arXiv 2109.08282):
//
//     s <- s + |g|^2                       from b0^2, over the rule's scope
//     m <- momentum m + (1 - momentum) g
//     p <- p - lr m / sqrt(s)
//
// The root reaches the coefficients as `root_factor`, or, over rows, each row as a factor of its own; below two
// dimensions a row is an element, and s the functor's second slot.
#pragma once

#include "momentum.h"
#include "rule.h"

namespace torchclip {

struct AdaGradNorm {
  static constexpr const char* kName = "adagrad_norm";
  using Functor = Momentum;
  static constexpr bool kClipsItself = true;
  static constexpr bool kSumsNorms = true;
  static constexpr int kScalars = 0;

  struct Hyperparameters {
    double lr;
    double momentum;  // in [0, 1)
  };

  static unsigned slots(const Hyperparameters& h) { return h.momentum != 0 ? 0b01 : 0b00; }

  // The factor on lr m.
  TORCHCLIP_HD static double direction_factor(const Hyperparameters&, DirectionNorms norms) {
    return norms.root_factor;
  }

  TORCHCLIP_HD static Momentum::Coefficients<double> coefficients(const Hyperparameters& h, double*, bool,
                                                                  DirectionNorms norms) {
    return averaged_momentum(h.momentum, h.lr * norms.root_factor, 0.0);
  }
};

}  // namespace torchclip
