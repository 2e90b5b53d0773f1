// Memory, alignment and comparison for the programs that run the kernels of csrc/cuda.
#pragma once

#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/launch.h"

namespace torchclip::cuda {

inline int failures = 0;

#define TORCHCLIP_EXPECT(condition, ...) \
  do {                                   \
    if (!(condition)) {                  \
      ++failures;                        \
      std::printf(__VA_ARGS__);          \
      std::printf("\n");                 \
    }                                    \
  } while (false)

template <class T>
T* on_device(const std::vector<T>& values, int64_t offset = 0) {
  char* memory = nullptr;
  const size_t bytes = (values.size() + static_cast<size_t>(offset)) * sizeof(T);
  check(cudaMalloc(reinterpret_cast<void**>(&memory), bytes == 0 ? 1 : bytes), "cudaMalloc");
  T* const first = reinterpret_cast<T*>(memory) + offset;
  check(cudaMemcpy(first, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  return first;
}

template <class T>
std::vector<T> on_host(const T* values, size_t count) {
  std::vector<T> result(count);
  check(cudaMemcpy(result.data(), values, count * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
  return result;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace torchclip::cuda
