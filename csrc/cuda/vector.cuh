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

// What an access would read from elements that lie on no boundary.
template <class T>
__device__ __forceinline__ uint4 put_together(const T* first) {
  T elements[kWidth<T>];
#pragma unroll
  for (int i = 0; i < kWidth<T>; ++i) elements[i] = first[i];
  uint4 bits;
  memcpy(&bits, elements, sizeof(bits));
  return bits;
}

// `kCount` elements that follow one another in memory, in registers as the compute type: one of them anywhere, or whole
// accesses from a 16-byte boundary on.
template <class C, int kCount>
struct Vector {
  C values[kCount] = {};

  __device__ __forceinline__ C& operator[](int i) { return values[i]; }

  // `is_on_boundary`: whether whole accesses are; else they are put together.
  template <class T>
  __device__ __forceinline__ void load(const T* from, CachePolicy policy, bool is_on_boundary = true) {
    if constexpr (kCount == 1) {
      values[0] = torchclip::load(*from);
    } else {
      constexpr int kPerAccess = kWidth<T>;
      static_assert(kCount % kPerAccess == 0);
#pragma unroll
      for (int access = 0; access < kCount / kPerAccess; ++access) {
        const T* const first = from + access * kPerAccess;
        const uint4 bits = is_on_boundary ? policy.read(reinterpret_cast<const uint4*>(first)) : put_together(first);
        T elements[kPerAccess];
        memcpy(elements, &bits, sizeof(bits));
#pragma unroll
        for (int i = 0; i < kPerAccess; ++i) values[access * kPerAccess + i] = torchclip::load(elements[i]);
      }
    }
  }

  template <class T>
  __device__ __forceinline__ void store(T* to, CachePolicy policy) const {
    if constexpr (kCount == 1) {
      *to = torchclip::store<T>(values[0]);
    } else {
      constexpr int kPerAccess = kWidth<T>;
#pragma unroll
      for (int access = 0; access < kCount / kPerAccess; ++access) {
        T elements[kPerAccess];
#pragma unroll
        for (int i = 0; i < kPerAccess; ++i) elements[i] = torchclip::store<T>(values[access * kPerAccess + i]);
        uint4 bits;
        memcpy(&bits, elements, sizeof(bits));
        policy.write(reinterpret_cast<uint4*>(to) + access, bits);
      }
    }
  }
};

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

// How elements [begin, end) are taken: [first, last) as vectors of `width`, those before and behind one by one.
struct Split {
  int64_t begin, end, first, last;

  // `head`: elements before the first boundary that operands share; negative where there is none.
  __device__ __forceinline__ Split(int64_t begin, int64_t end, int64_t head, int64_t width) : begin(begin), end(end) {
    first = head < 0 || head > end - begin ? end : begin + head;
    last = first + (end - first) / width * width;
  }
  __device__ __forceinline__ int64_t alone() const { return first - begin + end - last; }
  __device__ __forceinline__ int64_t element(int64_t i) const {
    return begin + i < first ? begin + i : last + (begin + i - first);
  }
};

}  // namespace torchclip::cuda
