// What a plan in Python reads of parameters, gradients and state at every step.
#pragma once

#include "python_access.h"

namespace torchclip {

// `Gatherer`, for the plan of torchclip/backends/triton/plan.py.
void bind_gatherer(py::module_& module);

}  // namespace torchclip
