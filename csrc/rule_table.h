// The rules of the registry behind plain function pointers, for code that is told the rule by name at run time. Without
// the rules' headers: what includes this need not be compiled again for a new rule.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "rules/rule.h"

namespace torchclip {

// How many there are of what torchclip/rules lists by name.
struct Listed {
  size_t count;

  size_t size() const { return count; }
  bool empty() const { return count == 0; }
};

struct RuleEntry {
  const char* name;
  bool clips_itself;
  bool sums_norms;
  bool counts_zeros;
  Listed hyperparameters;  // without lr, which comes first in every struct
  Listed scalars;
  Listed coefficients;
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

const std::vector<RuleEntry>& rule_table();

// Null when there is no rule of that name.
const RuleEntry* find_rule(std::string_view name);

}  // namespace torchclip
