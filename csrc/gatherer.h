// What a plan in Python reads of parameters, gradients and state at every step.
#pragma once

#include "python_access.h"

namespace torchclip {

// `Gatherer`, with the methods of the one in torchclip/gatherer.py, which runs where there is no extension.
void bind_gatherer(py::module_& module);

}  // namespace torchclip
