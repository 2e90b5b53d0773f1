// How host code here starts a kernel and checks a call of the CUDA runtime. The macros are the one spelling that nvcc
// and the emulator of tests/support/cuda_emulator both compile.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace torchclip::cuda {

inline const char* remedy(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "free memory on the device, or use a smaller model";
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return "make the GPU visible (CUDA_VISIBLE_DEVICES), or choose another backend";
    case cudaErrorInsufficientDriver:
      return "update the driver, or build torchclip with an older CUDA toolkit";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "build torchclip for this GPU's architecture";
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
      return "take one step before the capture, so that every buffer exists";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
      return "an earlier kernel may be the cause: run under compute-sanitizer, or with CUDA_LAUNCH_BLOCKING=1";
    default:
      return "run with CUDA_LAUNCH_BLOCKING=1 to see which call fails first";
  }
}

// Throws unless `error` is cudaSuccess. `what` is the call, for the message.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // forgotten, or the next launch would be blamed for it
  throw std::runtime_error(std::string(what) + " failed with " + cudaGetErrorName(error) + ": " +
                           cudaGetErrorString(error) + "; " + remedy(error));
}

}  // namespace torchclip::cuda

// TORCHCLIP_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...), and the same for a cooperative launch,
// whose blocks are all resident, and for one that may begin before the launch in front of it has ended (see
// cache_policy.cuh). A template goes in parentheses: TORCHCLIP_LAUNCH((scale<float, 4>), grid, ...). All throw when the
// launch is refused.
#if defined(TORCHCLIP_CUDA_EMULATOR)

#define TORCHCLIP_NOINLINE __attribute__((noinline))
#define TORCHCLIP_LAUNCH_AS(kind, kernel, grid, block, shared_bytes, stream, ...)                                 \
  ::torchclip::cuda::check(::emulator::launch(::emulator::Configuration(grid, block, shared_bytes, stream, kind), \
                                              #kernel, kernel __VA_OPT__(, ) __VA_ARGS__),                        \
                           "launch of " #kernel)
#define TORCHCLIP_LAUNCH(...) TORCHCLIP_LAUNCH_AS(::emulator::Kind::kPlain, __VA_ARGS__)
#define TORCHCLIP_LAUNCH_COOPERATIVE(...) TORCHCLIP_LAUNCH_AS(::emulator::Kind::kCooperative, __VA_ARGS__)
#define TORCHCLIP_LAUNCH_EARLY(...) TORCHCLIP_LAUNCH_AS(::emulator::Kind::kEarly, __VA_ARGS__)
// Dynamic shared memory of a kernel: a pointer `name` to elements of the type.
#define TORCHCLIP_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::emulator::dynamic_shared())

#elif defined(__CUDACC__)

#define TORCHCLIP_NOINLINE __noinline__

namespace torchclip::cuda {

inline cudaLaunchAttribute cooperative() {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  return attribute;
}

inline cudaLaunchAttribute early() {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

template <class... Parameters, class... Arguments>
cudaError_t launch_with(cudaLaunchAttribute attribute, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                        size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Arguments&&>(arguments)...);
}

}  // namespace torchclip::cuda

#define TORCHCLIP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  do {                                                                   \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__);          \
    ::torchclip::cuda::check(cudaGetLastError(), "launch of " #kernel);  \
  } while (false)
#define TORCHCLIP_LAUNCH_WITH(attribute, kernel, grid, block, shared_bytes, stream, ...)                               \
  ::torchclip::cuda::check(                                                                                            \
      ::torchclip::cuda::launch_with(attribute, kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__), \
      "launch of " #kernel)
#define TORCHCLIP_LAUNCH_COOPERATIVE(...) TORCHCLIP_LAUNCH_WITH(::torchclip::cuda::cooperative(), __VA_ARGS__)
#define TORCHCLIP_LAUNCH_EARLY(...) TORCHCLIP_LAUNCH_WITH(::torchclip::cuda::early(), __VA_ARGS__)
#define TORCHCLIP_DYNAMIC_SHARED(type, name)                    \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* const name = reinterpret_cast<type*>(name##_bytes)

#endif
