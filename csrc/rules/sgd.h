// SGD with momentum, as torch.optim.SGD (Sutskever et al., ICML 2013):
//
//     m <- g                                      in the first step
//     m <- momentum m + (1 - dampening) g         after it
//     p <- p - lr m,  or  p - lr (g + momentum m)  with nesterov
#pragma once

#include "momentum.h"
#include "rule.h"

namespace torchclip {

struct Sgd {
  static constexpr const char* kName = "sgd";
  using Functor = Momentum;
  static constexpr bool kClipsItself = false;
  static constexpr bool kSumsNorms = false;
  static constexpr int kScalars = 0;

  struct Hyperparameters {
    double lr;
    double momentum;   // in [0, 1)
    double dampening;  // in [0, 1]
    double nesterov;   // 0 or 1
  };

  static unsigned slots(const Hyperparameters& h) { return h.momentum != 0 ? 0b1 : 0b0; }

  // Whether a buffer of zeros and the coefficients of a later step would make another first step.
  static bool first_differs(const Hyperparameters& h) { return h.momentum != 0 && h.dampening != 0; }

  // Nesterov's momentum is without dampening.
  static bool conflicts(const Hyperparameters& h) { return h.nesterov != 0 && first_differs(h); }

  TORCHCLIP_HD static Momentum::Coefficients<double> coefficients(const Hyperparameters& h, double*, bool first,
                                                                  DirectionNorms) {
    if (h.momentum == 0) return momentum_coefficients(0.0, 1.0, 0.0, h.lr);
    const bool nesterov = h.nesterov != 0;
    return momentum_coefficients(first ? 0.0 : h.momentum, first ? 1.0 : 1.0 - h.dampening,
                                 nesterov ? h.lr * h.momentum : h.lr, nesterov ? h.lr : 0.0);
  }
};

}  // namespace torchclip
