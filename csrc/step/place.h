// Devices as torch and the launchers know them. Under the emulator of the tests all of them are this machine, and a
// test says what lies on which.
#pragma once

#include <ATen/core/Tensor.h>

#if defined(TORCHCLIP_CUDA_EMULATOR)
#include "../cuda/launch.h"
#include "emulator/control.h"
#else
#include <c10/core/DeviceGuard.h>
#endif

namespace torchclip {

// A device by its number, and as torch calls it.
struct Place {
  int number;
  c10::Device device;
};

#if defined(TORCHCLIP_CUDA_EMULATOR)

inline Place place_of(const at::Tensor& tensor) {
  return {torchclip_emulator_device_of(tensor.data_ptr()), tensor.device()};
}

constexpr bool kCpuHasNumbers = true;

class DeviceGuard {
 public:
  explicit DeviceGuard(const Place& place) : before_(torchclip_emulator_current_device()) {
    if (place.number != before_) cuda::check(cudaSetDevice(place.number), "cudaSetDevice");
  }
  ~DeviceGuard() {
    if (torchclip_emulator_current_device() != before_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_;
};

#else

inline Place place_of(const at::Tensor& tensor) { return {tensor.device().index(), tensor.device()}; }

// Of the CPU there is one.
constexpr bool kCpuHasNumbers = false;

// torch's own: it makes no context on a device that was current and never used.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Place& place) : guard_(place.device) {}

 private:
  c10::DeviceGuard guard_;
};

#endif

}  // namespace torchclip
