// Memory that a step asks torch for, as a tensor of Python's: its allocator's, so that graphs and memory statistics
// stay right. What is done to a buffer is done by torch's own functions, on the current stream.
#pragma once

#include <string>
#include <vector>

#include "../python_access.h"
#include "../reader/reader.h"
#include "device_id.h"

namespace torchclip {

class Buffer {
 public:
  Buffer() = default;
  // A tensor whose elements can be reached; throws std::runtime_error otherwise.
  explicit Buffer(const Object& tensor);
  // `dtype`: a name in the module torch. `shape`: {} is one number.
  static Buffer zeros(const std::vector<int64_t>& shape, const char* dtype, const Device& device);
  static Buffer empty(int64_t count, const char* dtype, const Device& device);
  static Buffer page_locked(int64_t bytes);

  explicit operator bool() const { return static_cast<bool>(tensor_); }
  const Object& tensor() const { return tensor_; }
  Device device() const { return info_.device; }
  ElementType type() const { return info_.type; }
  int64_t numel() const { return info_.numel; }
  void* data() const { return info_.data; }
  template <class T>
  T* values() const {
    return static_cast<T*>(info_.data);
  }

  Buffer narrow(int64_t begin, int64_t count) const;
  Buffer view(const char* dtype) const;
  Buffer operator[](int64_t index) const;
  Buffer clone() const { return Buffer(tensor_.call("clone")); }
  // On that device, of that type; itself where it is.
  Buffer to(const Device& device, const char* dtype) const;
  Buffer to(const Device& device) const;
  void copy_from(const Buffer& other, bool non_blocking = false) const;
  void fill(double value) const { tensor_.call("fill_", to_python(value)); }

 private:
  Object tensor_;
  TensorInfo info_;
};

Object torch_function(const char* name);  // or another attribute of the module torch
Object torch_device(const Device& device);

}  // namespace torchclip
