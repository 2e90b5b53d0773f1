// LinBreg, linearised Bregman iterations (Bungert, Roith, Tenbrinck, Burger, "A Bregman Learning Framework for Sparse
// Neural Networks", JMLR 2022, arXiv 2105.04319, Algorithms 1 and 2):
//
//     v <- v - lr g,   or with momentum  m <- momentum m + (1 - momentum) lr g,  v <- v - m
//     p <- delta sign(v) max(|v| - lam, 0)
//
// v, the subgradient, starts at p / delta + lam sign(p).
#pragma once

#include "rule.h"
#include "soft_threshold.h"

namespace torchclip {

struct LinBreg {
  static constexpr const char* kName = "lin_breg";
  using Functor = SoftThreshold;
  static constexpr bool kClipsItself = false, kSumsNorms = false;
  static constexpr int kScalars = 0;

  struct Hyperparameters {
    double lr;
    double lam;       // at least 0
    double delta;     // above 0
    double momentum;  // in [0, 1)
  };

  static unsigned slots(const Hyperparameters& h) { return h.momentum != 0 ? 0b011 : 0b001; }
  TORCHCLIP_HD static SoftThreshold::Coefficients<double> coefficients(const Hyperparameters& h, double*, bool,
                                                                       DirectionNorms) {
    if (h.momentum == 0) return {h.lr, h.lam, h.delta};
    return {1.0, h.lam, h.delta, h.momentum, (1.0 - h.momentum) * h.lr};
  }
};

}  // namespace torchclip
