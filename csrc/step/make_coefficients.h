// The coefficients that a step starts from, before any norm is known: host and device make them alike.
#pragma once

#include "modifiers.h"
#include "tables.h"

namespace torchclip {

// The coefficients of the pipeline; those of the rule are 0. `step`: the number of this step, from 1. The noise shrinks
// with the steps before it.
TORCHCLIP_HD Coefficients make_coefficients(double lr, double weight_decay, bool decoupled, bool maximize,
                                            const Modifiers& modifiers, double step, double inverse_grad_scale) {
  Coefficients coefficients{};
  coefficients.pipeline.gradient_scale = maximize ? -inverse_grad_scale : inverse_grad_scale;
  // Kernels that serve every stage clamp whether or not this step has that stage.
  coefficients.pipeline.value_limit = modifiers.clip_kind() == ClipKind::kValue ? modifiers.limit : kUnlimited;
  if (modifiers.gradient_noise != 0)
    coefficients.pipeline.noise_scale = sqrt(modifiers.noise_eta / pow(step, modifiers.noise_gamma));
  coefficients.pipeline.weight_decay = decoupled ? 0.0 : weight_decay;
  coefficients.pipeline.shrink = decoupled ? 1.0 - lr * weight_decay : 1.0;
  return coefficients;
}

}  // namespace torchclip
