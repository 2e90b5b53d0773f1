// Accesses of 16 bytes: eight elements of a half-precision type, four of float32, two of float64. By the intrinsics
// that name the address space and the cache, since pointers come from tables in memory: the compiler would not know
// that they are global, and nothing is read twice by one multiprocessor.
#pragma once

#include <cuda_runtime.h>

#include "../scalar_ops.h"

namespace torchclip::cuda {

// Elements that a thread takes at a time: 16 bytes of the parameter's type.
template <class T>
constexpr int kWidth = 16 / static_cast<int>(sizeof(T));

// `count` elements that follow one another, from memory on a 16-byte boundary.
template <int kCount, class T, class C>
__device__ __forceinline__ void read_vector(const T* from, C (&values)[kCount]) {
  static_assert(kCount * sizeof(T) % sizeof(uint4) == 0);
  constexpr int kPerAccess = sizeof(uint4) / sizeof(T);
#pragma unroll
  for (int access = 0; access < kCount / kPerAccess; ++access) {
    const uint4 bits = __ldcg(reinterpret_cast<const uint4*>(from) + access);
    T elements[kPerAccess];
    memcpy(elements, &bits, sizeof(bits));
#pragma unroll
    for (int i = 0; i < kPerAccess; ++i) values[access * kPerAccess + i] = load(elements[i]);
  }
}

// `streams`: past the cache, for what is not read again while it would be there.
template <int kCount, class T, class C>
__device__ __forceinline__ void write_vector(T* to, const C (&values)[kCount], bool streams) {
  constexpr int kPerAccess = sizeof(uint4) / sizeof(T);
#pragma unroll
  for (int access = 0; access < kCount / kPerAccess; ++access) {
    T elements[kPerAccess];
#pragma unroll
    for (int i = 0; i < kPerAccess; ++i) elements[i] = store<T>(values[access * kPerAccess + i]);
    uint4 bits;
    memcpy(&bits, elements, sizeof(bits));
    uint4* const place = reinterpret_cast<uint4*>(to) + access;
    if (streams) {
      __stcs(place, bits);
    } else {
      __stcg(place, bits);
    }
  }
}

// Runs `scalar(i)` and `vector(i)` so that together they take every element in [0, count) once, with a block's threads:
// one by one up to `head`, kWidth at a time as far as they go, and one by one again. A negative head: all one by one.
template <int kElements, class Scalar, class Vector>
__device__ __forceinline__ void for_each_element(int64_t count, int64_t head, const Scalar& scalar,
                                                 const Vector& vector) {
  if (head < 0) head = count;
  if (head > count) head = count;
  const int64_t tail = head + (count - head) / kElements * kElements;
  for (int64_t i = threadIdx.x; i < head; i += blockDim.x) scalar(i);
  for (int64_t i = head + static_cast<int64_t>(threadIdx.x) * kElements; i < tail;
       i += static_cast<int64_t>(blockDim.x) * kElements)
    vector(i);
  for (int64_t i = tail + threadIdx.x; i < count; i += blockDim.x) scalar(i);
}

}  // namespace torchclip::cuda
