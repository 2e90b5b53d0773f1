// What every plan of a step shares, whatever runs it.
#pragma once

#include <vector>

#include "../pipeline.h"
#include "../reader/parameter_reader.h"
#include "../rule_table.h"
#include "modifiers.h"

namespace torchclip {

// kUnready: a parameter cannot step as it is, and nothing has been done.
enum class Outcome : int { kStepped, kSkipped, kNonFinite, kUnready };

// Where a rule keeps its sums of squared norms when they are taken over `scope`.
inline Sums sums_of(const RuleEntry& rule, Scope scope) {
  if (!rule.sums_norms) return Sums::kNone;
  return scope == Scope::kTensor ? Sums::kTensor : scope == Scope::kRow ? Sums::kRow : Sums::kShared;
}

// How many units a scope has, each of which has norms of its own; rows are kept apart elsewhere and are one unit here.
inline size_t unit_count(Scope scope, const ParameterReader& reader) {
  if (scope == Scope::kGroup) return reader.groups().size();
  return scope == Scope::kTensor ? reader.records().size() : 1;
}
// The unit of the parameter at `position` among all, of a group.
inline size_t unit_of(Scope scope, int32_t group, int32_t position) {
  if (scope == Scope::kGroup) return static_cast<size_t>(group);
  return scope == Scope::kTensor ? static_cast<size_t>(position) : 0;
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
