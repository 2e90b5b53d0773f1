// What every plan of a step shares, whatever runs it.
#pragma once

#include <vector>

#include "members.h"
#include "modifiers.h"
#include "pipeline.h"
#include "rule_table.h"

namespace torchclip {

enum class Outcome : int { kStepped, kSkipped, kNonFinite };

// Where a rule keeps its sums of squared norms when they are taken over `scope`.
inline Sums sums_of(const RuleEntry& rule, Scope scope) {
  if (!rule.sums_norms) return Sums::kNone;
  return scope == Scope::kTensor ? Sums::kTensor : scope == Scope::kRow ? Sums::kRow : Sums::kShared;
}

// The stages of each param group.
inline std::vector<unsigned> stages_of(const Modifiers& modifiers, const std::vector<Group>& groups) {
  unsigned common = modifiers.clip_kind() == ClipKind::kValue ? kValueClip : 0u;
  if (modifiers.gradient_dropout != 0) common |= kGradientDropout;
  if (modifiers.gradient_noise != 0) common |= kGradientNoise;
  if (modifiers.lr_dropout != 0) common |= kLRDropout;
  std::vector<unsigned> stages;
  for (const Group& group : groups) {
    const bool decays = group.pipeline[kWeightDecay] != 0 && group.pipeline[kDecoupled] == 0;
    stages.push_back(common | (decays ? kCoupledDecay : 0u));
  }
  return stages;
}

}  // namespace torchclip
