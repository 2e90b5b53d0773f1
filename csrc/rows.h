// What a row of coefficients starts from, before any norm is known: host and device make it alike.
#pragma once

#include <limits>

#include "modifiers.h"
#include "tables.h"

namespace torchclip {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

// The coefficients of the pipeline; those of the rule are 0. `step`: the number of this step, from 1. The noise shrinks
// with the steps before it.
TORCHCLIP_HD Row make_row(double lr, double weight_decay, bool decoupled, bool maximize, const Modifiers& modifiers,
                          double step, double inverse_grad_scale) {
  Row row{};
  row.pipeline.gradient_scale = maximize ? -inverse_grad_scale : inverse_grad_scale;
  // Kernels that serve every stage clamp whether or not this step has that stage.
  row.pipeline.value_limit = modifiers.clip_kind() == ClipKind::kValue ? modifiers.limit : kUnlimited;
  if (modifiers.gradient_noise != 0)
    row.pipeline.noise_scale = sqrt(modifiers.noise_eta / pow(step, modifiers.noise_gamma));
  row.pipeline.weight_decay = decoupled ? 0.0 : weight_decay;
  row.pipeline.shrink = decoupled ? 1.0 - lr * weight_decay : 1.0;
  return row;
}

}  // namespace torchclip
