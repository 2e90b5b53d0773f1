// MixClip (Zhang, Jin, Fang, Wang, NeurIPS 2020, arXiv 2010.02519, Algorithm 1):
//
//     m <- momentum m + (1 - momentum) g
//     p <- p - nu h(|m|) m - (1 - nu) h(|g|) g
//
// with h(r) = lr / (1 + lr r / gamma), the smooth form of the authors' code, or min(lr, gamma / r), the paper's.
// MomClip is nu = 1; SGDClip is nu = 1 with the paper's h.
#pragma once

#include "../policies.h"
#include "momentum.h"
#include "rule.h"

namespace torchclip {

struct MixClip {
  static constexpr const char* kName = "mix_clip";
  using Functor = Momentum;
  static constexpr bool kClipsItself = true;
  static constexpr bool kSumsNorms = false;
  static constexpr int kScalars = 0;

  struct Hyperparameters {
    double lr;
    double momentum;  // in [0, 1)
    double gamma;     // above 0
    double nu;        // in [0, 1]
    double smooth;    // 0 or 1
  };

  static unsigned slots(const Hyperparameters& h) { return h.momentum != 0 ? 0b1 : 0b0; }

  // h(|m|) / lr.
  TORCHCLIP_HD static double direction_factor(const Hyperparameters& h, DirectionNorms norms) {
    return clipped_step_factor(norms.direction, h.lr, h.gamma, h.smooth != 0);
  }

  TORCHCLIP_HD static Momentum::Coefficients<double> coefficients(const Hyperparameters& h, double*, bool,
                                                                  DirectionNorms norms) {
    const double gradient_factor = clipped_step_factor(norms.gradient, h.lr, h.gamma, h.smooth != 0);
    // At nu = 1 the gradient term is left out: 0 times an infinite norm's factor must not reach the parameters.
    const double gradient_step = h.nu == 1 ? 0.0 : (1.0 - h.nu) * h.lr * gradient_factor;
    return averaged_momentum(h.momentum, h.nu * h.lr * direction_factor(h, norms), gradient_step);
  }
};

}  // namespace torchclip
