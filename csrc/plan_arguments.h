// Policies as Python hands them to a plan.
#pragma once

#include <vector>

#include "modifiers.h"
#include "python_access.h"

namespace torchclip {

// From a dict of numbers by their names.
Modifiers modifiers_from(PyObject* numbers);

// From (unit, limit, smooth, nonfinite) of each param group; empty where no group has a policy of its own.
std::vector<GroupClip> group_clips_from(PyObject* numbers);

}  // namespace torchclip
