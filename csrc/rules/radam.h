// RAdam, Adam with a rectified variance (Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR
// 2020, arXiv 1908.03265, Algorithm 2), in torch.optim's form:
//
//     m, v     as Adam's
//     rho_inf = 2 / (1 - beta2) - 1,   rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t)
//     r_t     = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))
//     p      <- p - lr m / (1 - beta1^t) r_t sqrt(1 - beta2^t) / (sqrt(v) + eps)    where rho_t > 5
//     p      <- p - lr m / (1 - beta1^t)                                            before
#pragma once

#include "rule.h"
#include "second_moment.h"

namespace torchclip {

struct RAdam {
  static constexpr const char* kName = "radam";
  using Functor = SecondMoment;
  static constexpr bool kClipsItself = false;
  static constexpr bool kSumsNorms = false;
  static constexpr int kScalars = 1;  // step

  struct Hyperparameters {
    double lr;
    double beta1;  // in [0, 1)
    double beta2;  // in [0, 1)
    double eps;    // at least 0
  };

  static unsigned slots(const Hyperparameters&) { return 0b011; }

  TORCHCLIP_HD static SecondMoment::Coefficients<double> coefficients(const Hyperparameters& h, double* scalars, bool,
                                                                      DirectionNorms) {
    const double step = scalars[0] += 1;
    const double correction1 = 1.0 - pow(h.beta1, step), correction2 = 1.0 - pow(h.beta2, step);
    const double rho_inf = 2.0 / (1.0 - h.beta2) - 1.0;
    const double rho = rho_inf - 2.0 * step * pow(h.beta2, step) / correction2;
    SecondMoment::Coefficients<double> k{h.beta1, 1.0 - h.beta1, h.beta2, 1.0 - h.beta2, h.lr / correction1,
                                         0.0,     0.0,           1.0};
    if (rho > 5.0) {
      const double rectification =
          sqrt((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho));
      k.momentum_step *= rectification * sqrt(correction2);
      k.root_scale = 1.0;
      k.root_offset = h.eps;
    }
    return k;
  }
};

}  // namespace torchclip
