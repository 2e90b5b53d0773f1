// RMSprop (Tieleman, Hinton, Lecture 6.5 of Neural Networks for Machine Learning, 2012; centered: Graves, Generating
// Sequences with Recurrent Neural Networks, 2013, arXiv 1308.0850, equations (38) to (45)), in torch.optim's form:
//
//     s <- alpha s + (1 - alpha) g^2,   a <- alpha a + (1 - alpha) g when centered
//     b <- momentum b + g / (sqrt(s - a^2) + eps)
//     p <- p - lr b
#pragma once

#include "root_mean_square.h"
#include "rule.h"

namespace torchclip {

struct RMSprop {
  static constexpr const char* kName = "rmsprop";
  using Functor = RootMeanSquare;
  static constexpr bool kClipsItself = false;
  static constexpr bool kSumsNorms = false;
  static constexpr int kScalars = 1;  // step

  struct Hyperparameters {
    double lr;
    double alpha;     // in [0, 1)
    double eps;       // at least 0
    double momentum;  // at least 0
    double centered;  // 0 or 1
  };

  static unsigned slots(const Hyperparameters& h) {
    return 0b001 | (h.momentum > 0 ? 0b010 : 0) | (h.centered != 0 ? 0b100 : 0);
  }

  TORCHCLIP_HD static RootMeanSquare::Coefficients<double> coefficients(const Hyperparameters& h, double* scalars, bool,
                                                                        DirectionNorms) {
    scalars[0] += 1;
    return {h.alpha, 1.0 - h.alpha, h.momentum, h.lr, h.eps};
  }
};

}  // namespace torchclip
