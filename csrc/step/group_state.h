// Numbers of state that belong to no single parameter: 0-dim tensors, one a vector, in a param group's dict "shared".
#pragma once

#include "../python_access.h"
#include "buffer.h"

namespace torchclip {

class GroupState {
 public:
  // Of a param group's dict; the numbers lie on a device of that type, and on `index` of them unless it is negative,
  // but for the seed, which is always on the host.
  explicit GroupState(const Object& group, DeviceType type = kCpu, int index = -1);

  // What has no dimensions, in the place of a vector's length.
  static constexpr int64_t kOneNumber = -1;

  // The float64 number of that name, or a vector of that length.
  Buffer tensor(const char* name, int64_t length = kOneNumber) const {
    return Buffer(Object::borrow(find(name, kDoubleType, type_, length)));
  }
  // Where they lie.
  double* numbers(const char* name, int64_t length = kOneNumber) const;
  bool has(const char* name) const { return dict_ != nullptr && PyDict_GetItemString(dict_, name) != nullptr; }
  // The number of that name, on the host, which is finite and above 0.
  double positive(const char* name) const;
  // The number of that name, on the host, which counts something.
  double count(const char* name) const;
  uint64_t seed() const;

 private:
  // Borrowed.
  PyObject* find(const char* name, ElementType wanted, DeviceType type, int64_t length) const;
  DeviceType type_;
  int index_;
  PyObject* dict_ = nullptr;  // borrowed, for the length of a step
};

}  // namespace torchclip
