// AdaBreg, Adam in linearised Bregman iterations (Bungert, Roith, Tenbrinck, Burger, "A Bregman Learning Framework for
// Sparse Neural Networks", JMLR 2022, arXiv 2105.04319, Algorithm 3):
//
//     m <- beta1 m + (1 - beta1) g
//     s <- beta2 s + (1 - beta2) g^2
//     v <- v - lr / (1 - beta1^t) m / (sqrt(s) / sqrt(1 - beta2^t) + eps)
//     p <- delta sign(v) max(|v| - lam, 0)
//
// v, the subgradient, starts at p / delta + lam sign(p).
#pragma once

#include "rule.h"
#include "soft_threshold.h"

namespace torchclip {

struct AdaBreg {
  static constexpr const char* kName = "ada_breg";
  using Functor = SoftThreshold;
  static constexpr bool kClipsItself = false, kSumsNorms = false;
  static constexpr int kScalars = 1;  // step

  struct Hyperparameters {
    double lr;
    double lam;           // at least 0
    double delta;         // above 0
    double beta1, beta2;  // in [0, 1)
    double eps;           // at least 0
  };

  static unsigned slots(const Hyperparameters&) { return 0b111; }
  TORCHCLIP_HD static SoftThreshold::Coefficients<double> coefficients(const Hyperparameters& h, double* scalars, bool,
                                                                       DirectionNorms) {
    const double step = scalars[0] += 1, root = sqrt(1.0 - pow(h.beta2, step));
    return {h.lr * root / (1.0 - pow(h.beta1, step)),
            h.lam,
            h.delta,
            h.beta1,
            1.0 - h.beta1,
            h.beta2,
            1.0 - h.beta2,
            h.eps * root};
  }
};

}  // namespace torchclip
