#include "device_id.h"

#include <stdexcept>

#include "../python_access.h"
#if defined(TORCHCLIP_CUDA_EMULATOR)
#include "../cuda/launch.h"
#include "emulator/control.h"
#endif

namespace torchclip {

const char* name_of(DeviceType type) { return type == kCpu ? "cpu" : "cuda"; }

DeviceType device_type(const std::string& name) {
  for (const DeviceType type : {kCpu, kCuda})
    if (name == name_of(type)) return type;
  throw std::runtime_error("no plan serves devices of the type \"" + name + "\": choose \"cuda\", or \"cpu\"");
}

DeviceId device_id_of_object(PyObject* tensor) {
  TensorInfo info;
  if (reader().describe_object(tensor, /*writes=*/false, info)) return device_id_of(info);
  const Object device = Object::borrow(tensor).attribute("device");
  const std::string type = to_string(device.attribute("type").get());
  if (type == name_of(kCpu)) return {};
  const Object index = device.attribute("index");
  const int number = index.is_none() ? 0 : static_cast<int>(to_int(index.get()));
  return {number, {type == name_of(kCuda) ? kCuda : -1, number}};
}

DeviceId current_device_id(DeviceType type) {
  if (type != kCuda) return {};
  static PyObject* const current = kept_attribute("torch.cuda", "current_device");
  const int number = static_cast<int>(to_int(Object::borrow(current)().get()));
  return {number, {kCuda, number}};
}

#if defined(TORCHCLIP_CUDA_EMULATOR)

DeviceId device_id_of(const TensorInfo& tensor) { return {torchclip_emulator_device_of(tensor.data), tensor.device}; }

int (*emulated_number())(const void*) { return &torchclip_emulator_device_of; }

DeviceGuard::DeviceGuard(const DeviceId& id) : changes_(true), before_(torchclip_emulator_current_device()) {
  if (id.number != before_) cuda::check(cudaSetDevice(id.number), "cudaSetDevice");
}
DeviceGuard::~DeviceGuard() {
  if (torchclip_emulator_current_device() != before_) cudaSetDevice(before_);
}

#else

DeviceId device_id_of(const TensorInfo& tensor) { return {tensor.device.index, tensor.device}; }

int (*emulated_number())(const void*) { return nullptr; }

DeviceGuard::DeviceGuard(const DeviceId& id) : changes_(id.device.type == kCuda) {
  if (changes_) before_ = reader().exchange_device(id.device.index);
}
DeviceGuard::~DeviceGuard() {
  if (changes_) reader().restore_device(before_);
}

#endif

}  // namespace torchclip
