// A kernel and its arguments, as the machine takes them.
#pragma once

#include <functional>
#include <source_location>
#include <tuple>
#include <utility>

#include "errors.h"
#include "types.h"

typedef struct CUstream_st* cudaStream_t;

#pragma GCC visibility push(hidden)

namespace emulator {

enum class Kind {
  kPlain,
  kCooperative,  // its blocks are all resident
  kEarly,        // it may begin before the launch in front of it has ended, and has to wait for that itself
};

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
  Kind kind;
  std::source_location site = std::source_location::current();  // of the launch
};

// Runs `body` once for every thread, to the end, and returns what cudaGetLastError() will return too. While a graph is
// captured, it keeps the launch for later.
cudaError_t run(const Configuration& configuration, const char* name, const void* kernel, std::function<void()> body);

// As on a device, the arguments are converted once, and each thread has its own copy.
template <class... Parameters, class... Arguments>
cudaError_t launch(const Configuration& configuration, const char* name, void (*kernel)(Parameters...),
                   Arguments&&... arguments) {
  static_assert((0 + ... + sizeof(Parameters)) <= 32764, "a kernel has at most 32,764 bytes of parameters");
  std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
  return run(configuration, name, reinterpret_cast<const void*>(kernel),
             [kernel, parameters = std::move(parameters)] { std::apply(kernel, parameters); });
}

}  // namespace emulator

#pragma GCC visibility pop
