// NAdam, Adam with Nesterov's momentum (Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop), in
// torch.optim's form:
//
//     mu_t    = beta1 (1 - 0.96^(t momentum_decay) / 2),   mu_product_t = mu_1 ... mu_t
//     m, v    as Adam's
//     p      <- p - lr (mu_(t+1) m / (1 - mu_product_(t+1)) + (1 - mu_t) g / (1 - mu_product_t))
//                   / (sqrt(v / (1 - beta2^t)) + eps)
#pragma once

#include "rule.h"
#include "second_moment.h"

namespace torchclip {

struct NAdam {
  static constexpr const char* kName = "nadam";
  using Functor = SecondMoment;
  static constexpr bool kClipsItself = false;
  static constexpr bool kSumsNorms = false;
  static constexpr int kScalars = 2;  // step, mu_product

  struct Hyperparameters {
    double lr;
    double beta1;           // in [0, 1)
    double beta2;           // in [0, 1)
    double eps;             // at least 0
    double momentum_decay;  // at least 0
  };

  static unsigned slots(const Hyperparameters&) { return 0b011; }

  TORCHCLIP_HD static double momentum_at(const Hyperparameters& h, double step) {
    return h.beta1 * (1.0 - 0.5 * pow(0.96, step * h.momentum_decay));
  }

  TORCHCLIP_HD static SecondMoment::Coefficients<double> coefficients(const Hyperparameters& h, double* scalars, bool,
                                                                      DirectionNorms) {
    const double step = scalars[0] += 1;
    const double momentum = momentum_at(h, step), next = momentum_at(h, step + 1);
    const double product = scalars[1] *= momentum;
    return {h.beta1,
            1.0 - h.beta1,
            h.beta2,
            1.0 - h.beta2,
            h.lr * next / (1.0 - product * next),
            h.lr * (1.0 - momentum) / (1.0 - product),
            1.0 / sqrt(1.0 - pow(h.beta2, step)),
            h.eps};
  }
};

}  // namespace torchclip
