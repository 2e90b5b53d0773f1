// The host's side of the emulated CUDA runtime.
#include <chrono>
#include <cstring>
#include <map>

#include "emulator/host.h"
#include "graph.h"
#include "machine.h"
#include "memory.h"

using emulator::injected;
using emulator::is_capturing;
using emulator::is_spoilt;
using emulator::outside_capture;
using emulator::record;
using emulator::run_or_record;

struct CUevent_st {
  std::chrono::steady_clock::time_point time;
};

namespace {

cudaError_t last_error = cudaSuccess;

struct ErrorText {
  const char* name;
  const char* text;
};
const std::map<cudaError_t, ErrorText>& error_texts() {
  static const std::map<cudaError_t, ErrorText> texts = {
      {cudaSuccess, {"cudaSuccess", "no error"}},
      {cudaErrorInvalidValue, {"cudaErrorInvalidValue", "invalid argument"}},
      {cudaErrorMemoryAllocation, {"cudaErrorMemoryAllocation", "out of memory"}},
      {cudaErrorInitializationError, {"cudaErrorInitializationError", "initialization error"}},
      {cudaErrorInvalidConfiguration, {"cudaErrorInvalidConfiguration", "invalid configuration argument"}},
      {cudaErrorInsufficientDriver, {"cudaErrorInsufficientDriver", "driver is older than the runtime"}},
      {cudaErrorInvalidDeviceFunction, {"cudaErrorInvalidDeviceFunction", "invalid device function"}},
      {cudaErrorNoDevice, {"cudaErrorNoDevice", "no CUDA-capable device is detected"}},
      {cudaErrorInvalidDevice, {"cudaErrorInvalidDevice", "invalid device ordinal"}},
      {cudaErrorNoKernelImageForDevice, {"cudaErrorNoKernelImageForDevice", "no kernel image for the device"}},
      {cudaErrorInvalidResourceHandle, {"cudaErrorInvalidResourceHandle", "invalid resource handle"}},
      {cudaErrorNotReady, {"cudaErrorNotReady", "device not ready"}},
      {cudaErrorIllegalAddress, {"cudaErrorIllegalAddress", "an illegal memory access was encountered"}},
      {cudaErrorLaunchOutOfResources, {"cudaErrorLaunchOutOfResources", "too many resources requested"}},
      {cudaErrorMisalignedAddress, {"cudaErrorMisalignedAddress", "misaligned address"}},
      {cudaErrorLaunchFailure, {"cudaErrorLaunchFailure", "unspecified launch failure"}},
      {cudaErrorCooperativeLaunchTooLarge, {"cudaErrorCooperativeLaunchTooLarge", "too many blocks to be resident"}},
      {cudaErrorNotSupported, {"cudaErrorNotSupported", "operation not supported"}},
      {cudaErrorStreamCaptureUnsupported, {"cudaErrorStreamCaptureUnsupported", "not permitted during a capture"}},
      {cudaErrorStreamCaptureInvalidated, {"cudaErrorStreamCaptureInvalidated", "the capture was invalidated"}},
      {cudaErrorUnknown, {"cudaErrorUnknown", "unknown error"}},
  };
  return texts;
}
ErrorText text_of(cudaError_t error) {
  const auto found = error_texts().find(error);
  return found == error_texts().end() ? ErrorText{"cudaErrorUnknown", "unrecognized error code"} : found->second;
}

// Of a call that a capture forbids.
cudaError_t allowed(EmulatorCall call) {
  const cudaError_t error = outside_capture();
  return error == cudaSuccess ? injected(call) : error;
}

cudaError_t allocate_into(void** pointer, size_t bytes, cudaError_t error) {
  *pointer = nullptr;
  if (error != cudaSuccess) return record(error);
  if (bytes == 0) return cudaSuccess;
  *pointer = emulator::allocate(bytes);
  return *pointer == nullptr ? record(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t release(void* pointer) {
  return pointer == nullptr || emulator::release(pointer) ? cudaSuccess : record(cudaErrorInvalidValue);
}

}  // namespace

cudaError_t emulator::record(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return text_of(error).text; }

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return allocate_into(pointer, bytes, allowed(kEmulatorAllocate));
}
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) {
  return allocate_into(pointer, bytes, injected(kEmulatorAllocate));
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) { return cudaMalloc(pointer, bytes); }
cudaError_t cudaMallocHost(void** pointer, size_t bytes, unsigned) { return cudaMalloc(pointer, bytes); }
cudaError_t cudaFree(void* pointer) {
  const cudaError_t error = outside_capture();
  return error == cudaSuccess ? release(pointer) : record(error);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return release(pointer); }
cudaError_t cudaFreeHost(void* pointer) { return cudaFree(pointer); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  const cudaError_t error = injected(kEmulatorCopy);
  if (error != cudaSuccess) return record(error);
  return run_or_record([=] {
    if (bytes > 0) memcpy(to, from, bytes);  // what is there when a graph is replayed
    return cudaSuccess;
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = outside_capture();
  return error == cudaSuccess ? cudaMemcpyAsync(to, from, bytes, kind) : record(error);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  const cudaError_t error = injected(kEmulatorCopy);
  if (error != cudaSuccess) return record(error);
  return run_or_record([=] {
    if (bytes > 0) memset(to, value, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) { return cudaMemsetAsync(to, value, bytes); }

cudaError_t cudaDeviceSynchronize() { return record(allowed(kEmulatorSynchronize)); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  static char streams[1];
  *stream = reinterpret_cast<cudaStream_t>(streams);  // they are all alike
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = !is_capturing() ? cudaStreamCaptureStatusNone
            : is_spoilt()   ? cudaStreamCaptureStatusInvalidated
                            : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return *event = new CUevent_st{}, cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}
