// Numbers of state that belong to no single parameter: 0-dim tensors, one a vector, in a param group's dict "shared".
#pragma once

#include "python_access.h"

namespace torchclip {

class SharedNumbers {
 public:
  // Of a param group's dict.
  explicit SharedNumbers(const py::object& group);

  // Where the float64 numbers of that name lie: [count].
  double* numbers(const char* name, int64_t count = 1) const;
  uint64_t seed() const;

 private:
  const at::Tensor& tensor(const char* name, at::ScalarType dtype, int64_t count) const;
  PyObject* dict_ = nullptr;  // borrowed, for the length of a step
};

}  // namespace torchclip
