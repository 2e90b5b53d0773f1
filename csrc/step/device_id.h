// Devices as torch and the launchers know them. Under the emulator of the tests all of them are this machine, and a
// test says what lies on which.
#pragma once

#include "../reader/reader.h"

namespace torchclip {

// A device by its number, and as torch has it.
struct DeviceId {
  int number = 0;
  Device device;
};

DeviceId device_id_of(const TensorInfo& tensor);
// Of any kind of tensor.
DeviceId device_id_of_object(PyObject* tensor);
// That which is current.
DeviceId current_device_id(DeviceType type);
const char* name_of(DeviceType type);
// That of torch.device. Throws std::runtime_error for one that no plan serves.
DeviceType device_type(const std::string& name);

// Under the emulator: which device the address of a tensor on the CPU stands for. Null elsewhere.
int (*emulated_number())(const void*);

class DeviceGuard {
 public:
  explicit DeviceGuard(const DeviceId& id);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  bool changes_;  // the device is of a kind of which one is current
  int before_ = 0;
};

}  // namespace torchclip
