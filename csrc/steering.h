// target_sparsity's law: torchclip/rules/soft_threshold.py has it too.
#pragma once

#include <cstddef>

#include "rules/soft_threshold.h"

namespace torchclip {

// Of the threshold among the rule's coefficients.
constexpr size_t kThreshold = offsetof(SoftThreshold::Coefficients<double>, threshold) / sizeof(double);

// The factor on the threshold of a group in a step that finds `share` of its elements at exactly zero: that of the step
// before, moved towards the target.
TORCHCLIP_HD double steered_scale(double scale, double target, double share) {
  constexpr double kGain = 0.25, kFastest = 0.01, kLeast = 1e-6, kMost = 1e6;
  const double move = at_least(at_most(kGain * (target - share), kFastest), -kFastest);
  return at_least(at_most(scale * exp(move), kMost), kLeast);
}

}  // namespace torchclip
