// Fused stand-ins for what torch.nn.utils does to gradients, on dense or strided CPU tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace torchclip {

// Whether both functions below serve these tensors: floating point, on the CPU, no element stored twice.
bool serves_gradients(const std::vector<at::Tensor>& gradients);

// The norm of all elements together; `order` is above 0, infinity included.
double total_norm(const std::vector<at::Tensor>& gradients, double order);

// Multiplies every element by `factor`, in place.
void scale_gradients(const std::vector<at::Tensor>& gradients, double factor);

}  // namespace torchclip
