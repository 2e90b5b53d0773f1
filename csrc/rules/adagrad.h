// Adagrad (Duchi, Hazan, Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, JMLR
// 2011, Figure 1 with diagonal matrices), in torch.optim's form:
//
//     sum <- sum + g^2                                             from initial_accumulator_value
//     p   <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(sum) + eps)
#pragma once

#include "root_mean_square.h"
#include "rule.h"

namespace torchclip {

struct Adagrad {
  static constexpr const char* kName = "adagrad";
  using Functor = RootMeanSquare;
  static constexpr bool kClipsItself = false;
  static constexpr bool kSumsNorms = false;
  static constexpr int kScalars = 1;  // step

  struct Hyperparameters {
    double lr;
    double lr_decay;  // at least 0
    double eps;       // at least 0
  };

  static unsigned slots(const Hyperparameters&) { return 0b001; }

  TORCHCLIP_HD static RootMeanSquare::Coefficients<double> coefficients(const Hyperparameters& h, double* scalars, bool,
                                                                        DirectionNorms) {
    const double step = scalars[0] += 1;
    return {1.0, 1.0, 0.0, h.lr / (1.0 + (step - 1.0) * h.lr_decay), h.eps};
  }
};

}  // namespace torchclip
