// Memory, alignment and comparison for the programs that run the kernels of csrc/cuda.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <vector>

#include "cuda/launch.h"
#include "cuda/passes.h"

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
T number(const T* value) {
  return on_host(value, 1)[0];
}

inline double* numbers_on_device(size_t count, double value = -1.0) {
  return on_device(std::vector<double>(count, value));
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

inline bool near(double a, double b) { return std::fabs(a - b) <= 1e-6 * std::fabs(b); }

// Where element number e of a tensor lies, from its first: outermost dimension first.
inline int64_t offset_of(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, int64_t element) {
  int64_t offset = 0;
  for (size_t dimension = sizes.size(); dimension-- > 0;) {
    offset += element % sizes[dimension] * strides[dimension];
    element /= sizes[dimension];
  }
  return offset;
}

// Strides of a layout whose dimensions are turned round by `turn`, with `gap` elements of room for each.
inline std::vector<int64_t> turned_strides(const std::vector<int64_t>& sizes, size_t turn, int64_t gap) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = gap;
  for (size_t i = sizes.size(); i-- > 0;) {
    const size_t dimension = (i + turn) % sizes.size();
    strides[dimension] = stride;
    stride *= sizes[dimension];
  }
  return strides;
}

// A device array of elements by number, which lie as `strides` say, and what is there now. No strides: dense.
template <class T>
struct Laid {
  std::vector<int64_t> sizes, strides;
  size_t count = 0;
  T* device = nullptr;

  size_t place(size_t element) const {
    return sizes.empty() ? element : static_cast<size_t>(offset_of(sizes, strides, static_cast<int64_t>(element)));
  }
  size_t extent() const { return count == 0 ? 0 : place(count - 1) + 1; }  // the last element lies last

  void put(const std::vector<T>& values, int64_t offset) {
    count = values.size();
    std::vector<T> memory(extent());
    for (size_t element = 0; element < count; ++element) memory[place(element)] = values[element];
    device = on_device(memory, offset);
  }
  std::vector<T> get() const {
    const std::vector<T> memory = on_host(device, extent());
    std::vector<T> values;
    for (size_t element = 0; element < count; ++element) values.push_back(memory[place(element)]);
    return values;
  }
};

// Chunks of `grain` elements, numbered from `first_partial` on.
inline std::vector<DeviceChunk> chunks_of(const std::vector<DeviceTensor>& tensors, int64_t grain = kChunkGrain,
                                          int32_t first_partial = 0) {
  std::vector<DeviceChunk> chunks;
  for (size_t index = 0; index < tensors.size(); ++index)
    for (int64_t begin = 0; begin < tensors[index].numel; begin += grain)
      chunks.push_back({static_cast<int32_t>(index),
                        static_cast<int32_t>(std::min(grain, tensors[index].numel - begin)),
                        first_partial + static_cast<int32_t>(chunks.size()), begin});
  return chunks;
}

// In the arguments of the launch, or in device memory where they do not fit there or `in_memory` asks for it.
inline void set_gradients(PassArguments& arguments, const std::vector<const void*>& gradients, bool in_memory) {
  if (in_memory || gradients.size() > kInlineGradients) {
    arguments.gradients = on_device(gradients);
  } else {
    std::copy(gradients.begin(), gradients.end(), arguments.inline_gradients);
  }
}

inline void set_coefficients(PassArguments& arguments, const std::vector<Coefficients>& sets, bool in_memory) {
  if (in_memory || sets.size() > kInlineCoefficients) {
    arguments.coefficients = on_device(sets);
  } else {
    std::copy(sets.begin(), sets.end(), arguments.inline_coefficients);
  }
}

}  // namespace torchclip::cuda
