// The emulated devices: how many there are, which is current, and what they say of themselves.
#include <map>

#include "emulator/host.h"
#include "machine.h"

using emulator::injected;
using emulator::record;
using emulator::settings;

namespace {

int current = 0;  // of the host's threads together

std::map<const void*, int>& placements() {
  static std::map<const void*, int> devices;
  return devices;
}

std::map<int, int64_t>& launches() {
  static std::map<int, int64_t> counts;
  return counts;
}

bool exists(int device) { return device >= 0 && device < settings().devices; }

// Of a call that has to find devices at all. Within a major version, an older driver runs a newer runtime.
cudaError_t driver_state() {
  if (settings().driver_version / 1000 < CUDART_VERSION / 1000) return cudaErrorInsufficientDriver;
  return settings().devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

}  // namespace

int emulator::current_device() { return current; }
void emulator::make_current(int device) { current = device; }
void emulator::count_launch() {
  ++settings().launches;
  ++launches()[current];
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  cudaError_t error = injected(kEmulatorCountDevices);
  if (error == cudaSuccess) error = driver_state();
  if (error == cudaSuccess) *count = settings().devices;
  return record(error);
}
cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return record(driver_state());
}
cudaError_t cudaSetDevice(int device) {
  cudaError_t error = injected(kEmulatorSetDevice);
  if (error == cudaSuccess) error = driver_state();
  if (error == cudaSuccess && !exists(device)) error = cudaErrorInvalidDevice;
  if (error == cudaSuccess) current = device;
  return record(error);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const std::map<cudaDeviceAttr, int64_t> values = {
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrMaxSharedMemoryPerBlock, 48 << 10},
      {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMultiProcessorCount, settings().multiprocessors},
      {cudaDevAttrL2CacheSize, settings().cache_bytes},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrComputeCapabilityMajor, settings().capability_major},
      {cudaDevAttrComputeCapabilityMinor, settings().capability_minor},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 << 10},
      {cudaDevAttrCooperativeLaunch, 1},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, 227 << 10},
      {cudaDevAttrMaxBlocksPerMultiprocessor, 32},
  };
  cudaError_t error = injected(kEmulatorDeviceAttribute);
  if (error == cudaSuccess) error = driver_state();
  if (error == cudaSuccess && !exists(device)) error = cudaErrorInvalidDevice;
  const auto found = values.find(attribute);
  if (error == cudaSuccess && found == values.end()) error = cudaErrorInvalidValue;
  if (error == cudaSuccess) *value = static_cast<int>(found->second);
  return record(error);
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = settings().driver_version, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }

void torchclip_emulator_set_devices(int count) {
  settings().devices = count;
  current = 0;
  placements().clear();
}
void torchclip_emulator_place(const void* first_byte, int device) { placements()[first_byte] = device; }
int torchclip_emulator_device_of(const void* first_byte) {
  const auto found = placements().find(first_byte);
  return found == placements().end() ? 0 : found->second;
}
int torchclip_emulator_current_device() { return current; }
int64_t torchclip_emulator_launches_on(int device) { return launches()[device]; }
