// What the parts of selftest share.
#pragma once

#include <cstddef>
#include <cstdio>
#include <vector>

#include "cuda/launch.h"

using torchclip::cuda::check;

// Runs a test of what the emulator alone can do; false when none is called so.
bool run_emulator_test(const char* name);

template <class T>
T* device_array(size_t count) {
  T* pointer = nullptr;
  check(cudaMalloc(&pointer, count * sizeof(T)), "cudaMalloc");
  return pointer;
}

template <class T>
void copy(T* to, const T* from, size_t count) {
  check(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDefault, nullptr), "cudaMemcpyAsync");
}

template <class T>
std::vector<T> fetched(const T* device, size_t count) {
  std::vector<T> host(count);
  copy(host.data(), device, count);
  check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  return host;
}

template <class T>
void print(const T* device, size_t count) {
  for (const T value : fetched(device, count)) printf("%.17g ", static_cast<double>(value));
  printf("\n");
}
