// Policies as Python hands them to a plan.
#pragma once

#include <vector>

#include "../calls.h"
#include "../python_access.h"
#include "../reader/holding.h"
#include "modifiers.h"

namespace torchclip {

// From a dict of numbers by their names.
Modifiers modifiers_from(PyObject* numbers);

// From (unit, limit, smooth, nonfinite) of each param group; empty where no group has a policy of its own.
std::vector<GroupClip> group_clips_from(PyObject* numbers);

// From the arguments of a plan's hold(); torchclip.backends.held.Held says what they are.
Holding holding_from(const Arguments& arguments);
constexpr const char* kHoldSignature =
    "hold(self, parameter, slots, min_elements, embedding_rows, beside, absmax, /) -> None";

// The number that a step was handed, as a tensor or not; `otherwise` for None.
double number_from(const Object& value, double otherwise);

}  // namespace torchclip
