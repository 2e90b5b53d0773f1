// Fused stand-ins for what torch.nn.utils does to gradients, on dense or strided CPU tensors.
#pragma once

#include <vector>

#include "../python_access.h"

namespace torchclip {

// Whether both functions below serve these tensors: floating point, on the CPU, no element stored twice.
bool serves_gradients(const std::vector<Object>& gradients);

// The norm of all elements together; `order` is above 0, infinity included.
double total_norm(const std::vector<Object>& gradients, double order);

// Multiplies every element by `factor`, in place.
void scale_gradients(const std::vector<Object>& gradients, double factor);

}  // namespace torchclip
