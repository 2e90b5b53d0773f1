// What launchers and their callers ask of the CUDA runtime besides launches.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "launch.h"
#include "passes.h"
#include "reduce.cuh"

namespace torchclip::cuda {
namespace {

constexpr int kUploadThreads = 256;

// Host memory that rides in the parameters of a launch; with the rest they stay below the limit of 32,764 bytes.
struct Payload {
  uint32_t words[4096];
};

__global__ void upload_kernel(const __grid_constant__ Payload payload, uint32_t* to, int32_t words) {
  for (int i = static_cast<int>(threadIdx.x); i < words; i += kUploadThreads) to[i] = payload.words[i];
}

// The architectures that the kernels were compiled for, 900 for compute capability 9.0.
constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};

std::string version_name(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Machine code serves later devices of the same generation, and the newest architecture goes in as PTX too, for every
// later one. Asking for attributes makes no context on the device, as trying a kernel would.
bool is_served(int architecture) {
  for (const int built : kArchitectures)
    if (built / 100 == architecture / 100 && built <= architecture) return true;
  return architecture >= *std::max_element(std::begin(kArchitectures), std::end(kArchitectures));
}

// Why a device cannot run the kernels.
std::string reason_of_device(int device) {
  int major = 0, minor = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (error != cudaSuccess)
    return std::string("the GPU cannot be used: ") + cudaGetErrorString(error) + "; " + remedy(error);
  if (is_served(100 * major + 10 * minor)) return "";
  const std::string capability = std::to_string(major) + "." + std::to_string(minor);
  return "the GPU has compute capability " + capability +
         ", and torchclip was built for others: " + remedy(cudaErrorNoKernelImageForDevice);
}

std::string find_reason() {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (driver == 0) return "there is no NVIDIA driver: install one, or choose another backend";
  if (error == cudaErrorInsufficientDriver)
    return "the NVIDIA driver serves CUDA up to " + version_name(driver) + ", and torchclip was built with CUDA " +
           version_name(runtime) + ": " + remedy(error);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    return std::string("there is no GPU: ") + remedy(cudaErrorNoDevice);
  if (error != cudaSuccess) return std::string("CUDA does not start: ") + cudaGetErrorString(error);
  std::string first;
  for (int device = 0; device < count; ++device) {
    const std::string reason = reason_of_device(device);
    if (reason.empty()) return "";
    if (device == 0) first = reason;
  }
  return first;
}

}  // namespace

void upload(void* to, const void* from, int64_t bytes, void* stream) {
  Payload payload{};
  for (int64_t done = 0; done < bytes; done += sizeof(payload)) {
    const int64_t part = std::min<int64_t>(bytes - done, sizeof(payload));
    std::memcpy(&payload, static_cast<const char*>(from) + done, static_cast<size_t>(part));
    uint32_t* const place = reinterpret_cast<uint32_t*>(static_cast<char*>(to) + done);
    TORCHCLIP_LAUNCH(upload_kernel, 1, kUploadThreads, 0, static_cast<cudaStream_t>(stream), payload, place,
                     static_cast<int32_t>(part / static_cast<int64_t>(sizeof(uint32_t))));
  }
}

DeviceInfo device_info(int device) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
  };
  // A graph of such launches needs a driver for CUDA 12.3.
  const bool overlaps = attribute(cudaDevAttrComputeCapabilityMajor) >= 9 && versions().driver >= 12030;
  const int blocks = attribute(cudaDevAttrMultiProcessorCount) * kUpdateBlocksPerMultiprocessor;
  return {attribute(cudaDevAttrL2CacheSize), static_cast<uint32_t>(overlaps ? blocks : 0)};
}

bool is_capturing(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

std::string unavailable_reason() {
  const std::string reason = find_reason();
  cudaGetLastError();  // what was found out here must not fail the next call
  return reason;
}

Versions versions() {
  Versions result;
  cudaDriverGetVersion(&result.driver);
  cudaRuntimeGetVersion(&result.runtime);
  return result;
}

}  // namespace torchclip::cuda
