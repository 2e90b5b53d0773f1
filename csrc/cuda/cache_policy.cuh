// What the second-level cache is told of an access, and what a kernel says of the one behind it in the stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace torchclip::cuda {

// Accesses of 16 bytes to global memory, and of 8 to codes, past the first-level cache, since nothing is read twice by
// one multiprocessor. Their address space is named: pointers come from tables in memory, and the compiler would not
// know that it is global.
#if defined(__CUDA_ARCH__)

class CachePolicy {
 public:
  // What is needed again in this step stays, and what is not needed again goes first.
  static __device__ __forceinline__ CachePolicy as_usual() {
    CachePolicy policy;
    asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy.bits_));
    return policy;
  }
  static __device__ __forceinline__ CachePolicy keep() {
    CachePolicy policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy.bits_));
    return policy;
  }
  static __device__ __forceinline__ CachePolicy let_go() {
    CachePolicy policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy.bits_));
    return policy;
  }

  // Not volatile, so that many are on their way at once: no value is written before the read that it is made from.
  __device__ __forceinline__ uint4 read(const uint4* from) const {
    uint4 bits;
    asm("ld.global.cg.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
        : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
        : "l"(__cvta_generic_to_global(from)), "l"(bits_));
    return bits;
  }
  __device__ __forceinline__ uint2 read(const uint2* from) const {
    uint2 bits;
    asm("ld.global.cg.L2::cache_hint.v2.u32 {%0, %1}, [%2], %3;"
        : "=r"(bits.x), "=r"(bits.y)
        : "l"(__cvta_generic_to_global(from)), "l"(bits_));
    return bits;
  }
  // To the second-level cache and no further for now: written past it (st.cs), a step took two hundredths longer.
  __device__ __forceinline__ void write(uint4* to, const uint4& bits) const {
    asm volatile("st.global.cg.L2::cache_hint.v4.u32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(__cvta_generic_to_global(to)),
                 "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w), "l"(bits_)
                 : "memory");
  }
  __device__ __forceinline__ void write(uint2* to, const uint2& bits) const {
    asm volatile("st.global.cg.L2::cache_hint.v2.u32 [%0], {%1, %2}, %3;" ::"l"(__cvta_generic_to_global(to)),
                 "r"(bits.x), "r"(bits.y), "l"(bits_)
                 : "memory");
  }

 private:
  uint64_t bits_;
};

__device__ __forceinline__ void fetch_line(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(from)));
}

// A launch may begin before the one in front of it has ended: once all blocks of that have said so, and there is room.
// What it has written is not to be looked at before the wait. From compute capability 9.0 on; without effect otherwise.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#else

class CachePolicy {
 public:
  static __device__ __forceinline__ CachePolicy as_usual() { return {}; }
  static __device__ __forceinline__ CachePolicy keep() { return {}; }
  static __device__ __forceinline__ CachePolicy let_go() { return {}; }
  __device__ __forceinline__ uint4 read(const uint4* from) const { return __ldcg(from); }
  __device__ __forceinline__ void write(uint4* to, const uint4& bits) const { __stcg(to, bits); }
  __device__ __forceinline__ uint2 read(const uint2* from) const { return __ldcg(from); }
  __device__ __forceinline__ void write(uint2* to, const uint2& bits) const { __stcg(to, bits); }
};

__device__ __forceinline__ void fetch_line([[maybe_unused]] const void* from) {
#if defined(TORCHCLIP_CUDA_EMULATOR)
  emulator::fetch(from);
#endif
}
__device__ __forceinline__ void let_next_begin() {}
__device__ __forceinline__ void wait_for_previous() {
#if defined(TORCHCLIP_CUDA_EMULATOR)
  emulator::wait_for_previous();
#endif
}

#endif

// Has elements [begin, end) on their way to the second-level cache, by `kLanes` threads.
template <int kLanes, class T>
__device__ __forceinline__ void fetch_lines(const T* values, int64_t begin, int64_t end) {
  constexpr int64_t kLine = 128 / static_cast<int64_t>(sizeof(T));
#pragma unroll 1
  for (int64_t element = begin + static_cast<int64_t>(threadIdx.x) * kLine; element < end; element += kLanes * kLine)
    fetch_line(values + element);
}

}  // namespace torchclip::cuda
