#include "buffer.h"

namespace torchclip {
namespace {

Object named_arguments(const char* dtype, const Device& device) {
  const Object named = make_dict();
  put(named, "dtype", torch_function(dtype));
  put(named, "device", torch_device(device));
  return named;
}

}  // namespace

Object torch_function(const char* name) {
  static PyObject* const torch = Object::take(PyImport_ImportModule("torch")).release();
  return Object::borrow(torch).attribute(name);
}

Object torch_device(const Device& device) {
  const Object make = torch_function("device");
  return device.is_cpu() ? make(to_python("cpu")) : make(to_python(name_of(kCuda)), to_python(device.index));
}

Buffer::Buffer(const Object& tensor) : tensor_(tensor) {
  if (!reader().describe_object(tensor.get(), /*writes=*/true, info_))
    throw std::runtime_error("a step is handed " + description_of(tensor.get()) + " that has no memory of its own");
}

Buffer Buffer::zeros(const std::vector<int64_t>& shape, const char* dtype, const Device& device) {
  return Buffer(torch_function("zeros").call_with(make_tuple(shape), named_arguments(dtype, device)));
}

Buffer Buffer::empty(int64_t count, const char* dtype, const Device& device) {
  return Buffer(torch_function("empty").call_with(make_tuple(count), named_arguments(dtype, device)));
}

Buffer Buffer::page_locked(int64_t bytes) {
  const Object named = named_arguments("uint8", Device{});
  put(named, "pin_memory", to_python(true));
  return Buffer(torch_function("empty").call_with(make_tuple(bytes), named));
}

Buffer Buffer::narrow(int64_t begin, int64_t count) const {
  return Buffer(tensor_.call("narrow", to_python(0), to_python(begin), to_python(count)));
}

Buffer Buffer::view(const char* dtype) const { return Buffer(tensor_.call("view", torch_function(dtype))); }

Buffer Buffer::operator[](int64_t index) const {
  return Buffer(tensor_.call("select", to_python(0), to_python(index)));
}

Buffer Buffer::to(const Device& device, const char* dtype) const {
  const Object named = named_arguments(dtype, device);
  put(named, "non_blocking", to_python(true));
  return Buffer(tensor_.attribute("to").call_with(make_tuple(), named));
}

Buffer Buffer::to(const Device& device) const {
  if (info_.device == device) return *this;
  const Object named = make_dict();
  put(named, "device", torch_device(device));
  put(named, "non_blocking", to_python(true));
  return Buffer(tensor_.attribute("to").call_with(make_tuple(), named));
}

void Buffer::copy_from(const Buffer& other, bool non_blocking) const {
  tensor_.call("copy_", other.tensor_, to_python(non_blocking));
}

}  // namespace torchclip
