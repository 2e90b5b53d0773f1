// Accesses of 16 bytes: eight elements of a half-precision type, four of float32, two of float64.
#pragma once

#include "../scalar_ops.h"
#include "cache_policy.cuh"

namespace torchclip::cuda {

constexpr int64_t kAccess = 16;  // bytes

// Elements that a thread takes at a time: 16 bytes of the parameter's type.
template <class T>
constexpr int kWidth = static_cast<int>(kAccess / sizeof(T));

// Vectors of each operand that a thread reads before it uses the first: memory is far away, and what is under way at
// once decides how much of it comes in a second. As many as leave the registers for two blocks per multiprocessor.
// `accesses`: of 16 bytes, to read one vector of every operand.
TORCHCLIP_HD constexpr int vectors_in_flight(int accesses) { return accesses == 1 ? 4 : accesses <= 4 ? 2 : 1; }

// `count` elements that follow one another, from memory on a 16-byte boundary.
template <int kCount, class T, class C>
__device__ __forceinline__ void read_vector(const T* from, C (&values)[kCount], CachePolicy policy) {
  static_assert(kCount * sizeof(T) % sizeof(uint4) == 0);
  constexpr int kPerAccess = sizeof(uint4) / sizeof(T);
#pragma unroll
  for (int access = 0; access < kCount / kPerAccess; ++access) {
    const uint4 bits = policy.read(reinterpret_cast<const uint4*>(from) + access);
    T elements[kPerAccess];
    memcpy(elements, &bits, sizeof(bits));
#pragma unroll
    for (int i = 0; i < kPerAccess; ++i) values[access * kPerAccess + i] = load(elements[i]);
  }
}

template <int kCount, class T, class C>
__device__ __forceinline__ void write_vector(T* to, const C (&values)[kCount], CachePolicy policy) {
  constexpr int kPerAccess = sizeof(uint4) / sizeof(T);
#pragma unroll
  for (int access = 0; access < kCount / kPerAccess; ++access) {
    T elements[kPerAccess];
#pragma unroll
    for (int i = 0; i < kPerAccess; ++i) elements[i] = store<T>(values[access * kPerAccess + i]);
    uint4 bits;
    memcpy(&bits, elements, sizeof(bits));
    policy.write(reinterpret_cast<uint4*>(to) + access, bits);
  }
}

// Elements of `first` to go by before a 16-byte boundary.
template <class T>
__device__ __forceinline__ int64_t elements_to_boundary(const T* first) {
  return static_cast<int64_t>(-reinterpret_cast<uintptr_t>(first) % kAccess / sizeof(T));
}

// Whether an element lies on one.
template <class T>
__device__ __forceinline__ bool on_boundary(const T* element) {
  return reinterpret_cast<uintptr_t>(element) % kAccess == 0;
}

// Elements that follow one another.
struct InOrder {
  __device__ __forceinline__ bool is_dense() const { return true; }
  __device__ __forceinline__ int64_t element(int64_t place) const { return place; }
};

// Has `worker` take every element at a place in [begin, end) once, by `lanes` threads of which this is number `rank`:
// kWidth at a time between the first and the last boundary that all its operands share, and one by one before and
// behind, or all of them where the places are not dense. A worker says how many come before the boundary (`head`;
// negative: there is no such boundary) and takes elements by
//
//     one(element)                      and
//     vectors(element, stride, end)     kVectors of them, each `stride` behind the last, as far as they begin before
//     end
template <class Worker, class Places = InOrder>
__device__ __forceinline__ void for_each_element(Worker& worker, int64_t begin, int64_t end, int rank, int lanes,
                                                 const Places& places = {}) {
  constexpr int64_t kElements = Worker::kElements;
  const int64_t head = places.is_dense() ? worker.head(begin) : -1;
  const int64_t first = head < 0 || head > end - begin ? end : begin + head;
  const int64_t last = first + (end - first) / kElements * kElements;
  const int64_t alone = first - begin + end - last;
#pragma unroll 1
  for (int64_t i = rank; i < alone; i += lanes)
    worker.one(places.element(begin + i < first ? begin + i : last + (begin + i - first)));
  const int64_t stride = lanes * kElements;
#pragma unroll 1
  for (int64_t i = first + rank * kElements; i < last; i += stride * Worker::kVectors) worker.vectors(i, stride, last);
}

}  // namespace torchclip::cuda
