#include "rule_table.h"

#include <cstring>

#include "rules/registry.h"

namespace torchclip {
namespace {

template <class Rule>
typename Rule::Hyperparameters hyperparameters_from(const double* values) {
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
  entry.hyperparameters = {sizeof(typename Rule::Hyperparameters) / sizeof(double) - 1};
  entry.scalars = {Rule::kScalars};
  entry.coefficients = {sizeof(typename Functor::template Coefficients<double>) / sizeof(double)};
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

}  // namespace

const std::vector<RuleEntry>& rule_table() {
  static const std::vector<RuleEntry> table = [] {
    std::vector<RuleEntry> entries;
    for_each_rule(Rules{},
                  [&](auto rule, int32_t) { entries.push_back(describe_rule<typename decltype(rule)::type>()); });
    return entries;
  }();
  return table;
}

const RuleEntry* find_rule(std::string_view name) {
  for (const RuleEntry& entry : rule_table())
    if (name == entry.name) return &entry;
  return nullptr;
}

}  // namespace torchclip
