// Adam, AdamW and AMSGrad (Kingma, Ba, ICLR 2015, arXiv 1412.6980, Algorithm 1; Reddi et al., ICLR 2018,
// arXiv 1904.09237, Algorithm 2), in torch.optim's form:
//
//     m <- beta1 m + (1 - beta1) g
//     v <- beta2 v + (1 - beta2) g^2
//     p <- p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//
// AMSGrad divides by the largest v so far.
#pragma once

#include "rule.h"
#include "second_moment.h"

namespace torchclip {

struct Adam {
  static constexpr const char* kName = "adam";
  using Functor = SecondMoment;
  static constexpr bool kClipsItself = false;
  static constexpr bool kSumsNorms = false;
  static constexpr int kScalars = 1;  // step

  struct Hyperparameters {
    double lr;
    double beta1;    // in [0, 1)
    double beta2;    // in [0, 1)
    double eps;      // at least 0
    double amsgrad;  // 0 or 1
  };

  static unsigned slots(const Hyperparameters& h) { return h.amsgrad != 0 ? 0b111 : 0b011; }

  TORCHCLIP_HD static SecondMoment::Coefficients<double> coefficients(const Hyperparameters& h, double* scalars, bool,
                                                                      DirectionNorms) {
    const double step = scalars[0] += 1;
    return {h.beta1,
            1.0 - h.beta1,
            h.beta2,
            1.0 - h.beta2,
            h.lr / (1.0 - pow(h.beta1, step)),
            0.0,
            1.0 / sqrt(1.0 - pow(h.beta2, step)),
            h.eps};
  }
};

}  // namespace torchclip
