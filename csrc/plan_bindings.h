// The plans as Python sees them.
#pragma once

#include "python_access.h"

namespace torchclip {

// `Plan`, of CPU tensors, `TritonPlan`, and `CudaPlan` where the extension has CUDA kernels: the same methods.
void bind_plans(const Object& module);

}  // namespace torchclip
