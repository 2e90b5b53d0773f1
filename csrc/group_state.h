// Numbers of state that belong to no single parameter: 0-dim tensors, one a vector, in a param group's dict "shared".
#pragma once

#include "python_access.h"

namespace torchclip {

class GroupState {
 public:
  // Of a param group's dict; the numbers lie on that device, or on one of its kind where it has no index, but for the
  // seed, which is always on the host.
  explicit GroupState(const py::object& group, c10::Device device = c10::kCPU);

  // The float64 numbers of that name: [count].
  const at::Tensor& tensor(const char* name, int64_t count = 1) const {
    return find(name, at::kDouble, device_, count);
  }
  // Where they lie.
  double* numbers(const char* name, int64_t count = 1) const;
  // The number of that name, on the host, which counts something.
  double count(const char* name) const;
  uint64_t seed() const;

 private:
  const at::Tensor& find(const char* name, at::ScalarType dtype, c10::Device device, int64_t count) const;
  c10::Device device_;
  PyObject* dict_ = nullptr;  // borrowed, for the length of a step
};

}  // namespace torchclip
