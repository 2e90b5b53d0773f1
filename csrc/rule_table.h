// The rules of the registry behind plain function pointers, for code that is told the rule by name at run time.
#pragma once

#include <cstring>
#include <iterator>
#include <string_view>
#include <vector>

#include "rules/registry.h"

namespace torchclip {

struct RuleEntry {
  const char* name;
  bool clips_itself;
  bool sums_norms;
  bool counts_zeros;
  std::vector<const char*> hyperparameters;  // without lr, which comes first in every struct
  std::vector<const char*> slots;
  std::vector<ScalarState> scalars;
  std::vector<const char*> coefficients;
  unsigned (*used_slots)(const double* hyperparameters);
  bool (*first_differs)(const double* hyperparameters);
  bool (*conflicts)(const double* hyperparameters);
  // Moves `scalars` on by one step and writes the functor's coefficients.
  void (*compute)(const double* hyperparameters, double* scalars, bool first, DirectionNorms norms,
                  double* coefficients);
  // The factor on lr times the direction, for rules that clip themselves; null for the others.
  double (*direction_factor)(const double* hyperparameters, DirectionNorms norms);
  // Complex parameters, as their real view: not where zeros or sums of squares are of single elements, which would be
  // of parts of numbers then.
  bool takes_complex() const { return !counts_zeros && !sums_norms; }
};

template <class Rule>
typename Rule::Hyperparameters hyperparameters_from(const double* values) {
  constexpr size_t kCount = std::size(Rule::kHyperparameterNames) + 1;
  static_assert(sizeof(typename Rule::Hyperparameters) == kCount * sizeof(double));
  typename Rule::Hyperparameters result;
  std::memcpy(&result, values, sizeof(result));
  return result;
}

template <class Rule>
RuleEntry describe_rule() {
  using Functor = typename Rule::Functor;
  RuleEntry entry{};
  entry.name = Rule::kName;
  entry.clips_itself = Rule::kClipsItself;
  entry.sums_norms = Rule::kSumsNorms;
  entry.counts_zeros = Functor::kCountsZeros;
  entry.hyperparameters.assign(std::begin(Rule::kHyperparameterNames), std::end(Rule::kHyperparameterNames));
  entry.slots.assign(std::begin(Rule::kSlotNames), std::end(Rule::kSlotNames));
  entry.coefficients.assign(std::begin(Functor::kCoefficientNames), std::end(Functor::kCoefficientNames));
  entry.scalars.assign(Rule::kScalars.begin(), Rule::kScalars.end());
  entry.used_slots = [](const double* h) { return Rule::slots(hyperparameters_from<Rule>(h)); };
  entry.first_differs = []([[maybe_unused]] const double* h) {
    if constexpr (requires { Rule::first_differs(hyperparameters_from<Rule>(h)); })
      return Rule::first_differs(hyperparameters_from<Rule>(h));
    return false;
  };
  entry.conflicts = []([[maybe_unused]] const double* h) {
    if constexpr (requires { Rule::conflicts(hyperparameters_from<Rule>(h)); })
      return Rule::conflicts(hyperparameters_from<Rule>(h));
    return false;
  };
  entry.compute = [](const double* h, double* scalars, bool first, DirectionNorms norms, double* coefficients) {
    const auto result = Rule::coefficients(hyperparameters_from<Rule>(h), scalars, first, norms);
    std::memcpy(coefficients, &result, sizeof(result));
  };
  if constexpr (Rule::kClipsItself)
    entry.direction_factor = [](const double* h, DirectionNorms norms) {
      return Rule::direction_factor(hyperparameters_from<Rule>(h), norms);
    };
  return entry;
}

template <class... Rule>
std::vector<RuleEntry> describe_rules(TypeList<Rule...>) {
  return {describe_rule<Rule>()...};
}

inline const std::vector<RuleEntry>& rule_table() {
  static const std::vector<RuleEntry> table = describe_rules(Rules{});
  return table;
}

// Null when there is no rule of that name.
inline const RuleEntry* find_rule(std::string_view name) {
  for (const RuleEntry& entry : rule_table())
    if (name == entry.name) return &entry;
  return nullptr;
}

}  // namespace torchclip
