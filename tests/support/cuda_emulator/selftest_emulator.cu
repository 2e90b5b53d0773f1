// The part of selftest that a real device cannot run: injected errors, graphs, several devices.
#include <cooperative_groups.h>

#include <cstring>

#include "emulator/control.h"
#include "selftest.h"

namespace {

__global__ void add_kernel(float* values, float amount, unsigned* launches) {
  values[blockIdx.x * blockDim.x + threadIdx.x] += amount;
  if (blockIdx.x == 0 && threadIdx.x == 0) atomicAdd(launches, 1u);
}

// Needs every block at once.
__global__ void reverse_kernel(const float* values, float* result) {
  cooperative_groups::this_grid().sync();
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  result[i] = values[gridDim.x * blockDim.x - 1 - i];
}

void injected_launch() {
  torchclip_emulator_fail(kEmulatorLaunch, cudaErrorNoKernelImageForDevice, 0);
  TORCHCLIP_LAUNCH(add_kernel, 1, 64, 0, nullptr, nullptr, 1, nullptr);
}

void injected_allocation() {
  torchclip_emulator_fail(kEmulatorAllocate, cudaErrorMemoryAllocation, 1);
  device_array<float>(1);
  device_array<float>(1);
}

// A fill, a copy, a plain launch and a cooperative one, captured and then replayed with another source of the copy.
void graph() {
  float* const values = device_array<float>(64);
  float* const result = device_array<float>(64);
  unsigned* const launches = device_array<unsigned>(1);
  float host[64];
  for (float& value : host) value = 1;
  copy(result, host, 64);
  torchclip_emulator_begin_capture();
  check(cudaMemsetAsync(launches, 0, sizeof(unsigned), nullptr), "cudaMemsetAsync");
  copy(values, host, 64);
  float amount = 2;
  TORCHCLIP_LAUNCH(add_kernel, 2, 32, 0, nullptr, values, amount, launches);
  amount = 100;  // the launch has its own copy
  TORCHCLIP_LAUNCH_COOPERATIVE(reverse_kernel, 2, 32, 0, nullptr, values, result);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(nullptr, &status), "cudaStreamIsCapturing");
  const long long nodes = torchclip_emulator_end_capture();
  printf("%d %lld %lld\n", static_cast<int>(status), nodes, static_cast<long long>(torchclip_emulator_launches()));
  print(result + 62, 2);
  for (const float start : {5.0f, 7.0f}) {
    host[0] = start;
    check(static_cast<cudaError_t>(torchclip_emulator_replay()), "replay");
    print(result + 62, 2);
    print(launches, 1);
  }
  printf("%lld\n", static_cast<long long>(torchclip_emulator_launches()));
}

void spoilt_graph() {
  float* const values = device_array<float>(64);
  torchclip_emulator_begin_capture();
  float* more = nullptr;
  const cudaError_t error = cudaMalloc(&more, 4);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(nullptr, &status), "cudaStreamIsCapturing");
  const cudaError_t next = cudaMemsetAsync(values, 0, 4, nullptr);
  const long long nodes = torchclip_emulator_end_capture();
  printf("%s %d %s %lld\n", cudaGetErrorName(error), static_cast<int>(status), cudaGetErrorName(next), nodes);
  copy(values, values, 64);  // as ever
  torchclip_emulator_begin_capture();
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

void devices() {
  torchclip_emulator_set_devices(3);
  unsigned* const launches = device_array<unsigned>(1);
  float* const values = device_array<float>(64);
  for (const int device : {2, 0, 2}) {
    check(cudaSetDevice(device), "cudaSetDevice");
    TORCHCLIP_LAUNCH(add_kernel, 2, 32, 0, nullptr, values, 1, launches);
  }
  torchclip_emulator_begin_capture();
  TORCHCLIP_LAUNCH(add_kernel, 2, 32, 0, nullptr, values, 1, launches);
  torchclip_emulator_end_capture();
  check(cudaSetDevice(1), "cudaSetDevice");
  torchclip_emulator_replay();  // on device 2, where it was captured
  torchclip_emulator_place(values, 2);
  int current = -1, count = 0, cache = 0;
  torchclip_emulator_set_cache_bytes(5 << 20);
  check(cudaGetDevice(&current), "cudaGetDevice");
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, 2), "cudaDeviceGetAttribute");
  printf("%d %d %d %d %d\n", count, current, cache, torchclip_emulator_device_of(values),
         torchclip_emulator_device_of(launches));
  for (int device = 0; device < 3; ++device)
    printf("%lld ", static_cast<long long>(torchclip_emulator_launches_on(device)));
  torchclip_emulator_set_devices(1);
  check(cudaGetDevice(&current), "cudaGetDevice");
  printf("\n%d %d\n", current, torchclip_emulator_device_of(values));
  check(cudaSetDevice(1), "cudaSetDevice");
}

void old_driver() {
  int version = 0, count = 0;
  torchclip_emulator_set_driver_version(12040);
  check(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
  printf("%d\n", version);
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
}

void injected_attributes() {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, add_kernel), "cudaFuncGetAttributes");
  torchclip_emulator_fail(kEmulatorKernelAttributes, cudaErrorNoKernelImageForDevice, 0);
  check(cudaFuncGetAttributes(&attributes, add_kernel), "cudaFuncGetAttributes");
}

void use_after_free() {
  float* const result = device_array<float>(64);
  check(cudaFree(result), "cudaFree");
  TORCHCLIP_LAUNCH(add_kernel, 1, 64, 0, nullptr, result, 1, nullptr);
}

}  // namespace

bool run_emulator_test(const char* name) {
  const struct {
    const char* name;
    void (*run)();
  } tests[] = {
      {"injected_launch", injected_launch}, {"injected_allocation", injected_allocation},
      {"use_after_free", use_after_free},   {"graph", graph},
      {"spoilt_graph", spoilt_graph},       {"devices", devices},
      {"old_driver", old_driver},           {"injected_attributes", injected_attributes},
  };
  for (const auto& test : tests) {
    if (strcmp(name, test.name) != 0) continue;
    test.run();
    return true;
  }
  return false;
}
