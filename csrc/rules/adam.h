// Adam, AdamW and AMSGrad (Kingma, Ba, ICLR 2015, arXiv 1412.6980, Algorithm 1; Reddi et al., ICLR 2018,
// arXiv 1904.09237, Algorithm 2), in torch.optim's form:
//
//     m <- beta1 m + (1 - beta1) g
//     v <- beta2 v + (1 - beta2) g^2
//     p <- p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//
// AMSGrad divides by the largest v so far.
#pragma once

#include "../scalar_ops.h"
#include "rule.h"

namespace torchclip {

// The functor: direction = (momentum_step m + gradient_step g) / (root_scale sqrt(v) + root_offset). Nesterov's form
// has a gradient_step; a rule that leaves the second moment out for a while has root_scale 0 and root_offset 1.
struct SecondMoment {
  static constexpr int kSlots = 3;
  static constexpr const char* kSlotNames[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
  static constexpr unsigned kSlotMasks[] = {0b011, 0b111};
  static constexpr bool kReadsParameter = true;
  static constexpr bool kCountsZeros = false;
  static constexpr bool kMeasuresDirection = false;

  template <class C>
  struct Coefficients {
    C beta1;            // in [0, 1)
    C gradient_weight;  // 1 - beta1
    C beta2;            // in [0, 1)
    C square_weight;    // 1 - beta2
    C momentum_step;    // lr / (1 - beta1^t)
    C gradient_step;
    C root_scale;   // 1 / sqrt(1 - beta2^t)
    C root_offset;  // eps
  };
  static constexpr const char* kCoefficientNames[] = {"beta1",         "gradient_weight", "beta2",      "square_weight",
                                                      "momentum_step", "gradient_step",   "root_scale", "root_offset"};

  template <unsigned Slots, class C>
  TORCHCLIP_HD static void accumulate(const Coefficients<C>& k, C gradient, C (&state)[kSlots]) {
    state[0] = k.beta1 * state[0] + k.gradient_weight * gradient;
    state[1] = k.beta2 * state[1] + k.square_weight * gradient * gradient;
    if constexpr ((Slots & 0b100) != 0) state[2] = at_least(state[1], state[2]);
  }

  template <unsigned Slots, class C>
  TORCHCLIP_HD static C apply(const Coefficients<C>& k, C parameter, C gradient, const C (&state)[kSlots]) {
    const C second = (Slots & 0b100) != 0 ? state[2] : state[1];
    const C numerator = k.momentum_step * state[0] + k.gradient_step * gradient;
    return parameter - numerator / (k.root_scale * square_root(second) + k.root_offset);
  }
};

struct Adam {
  static constexpr const char* kName = "adam";
  using Functor = SecondMoment;
  static constexpr bool kClipsItself = false;
  static constexpr int kScalars = 1;
  static constexpr const char* kScalarNames[] = {"step"};

  struct Hyperparameters {
    double lr;
    double beta1;    // in [0, 1)
    double beta2;    // in [0, 1)
    double eps;      // at least 0
    double amsgrad;  // 0 or 1
  };
  static constexpr const char* kHyperparameterNames[] = {"beta1", "beta2", "eps", "amsgrad"};

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
