// Functions of device code that concern one thread: barriers, atomics, loads and stores, rounded arithmetic.
#pragma once

#include <chrono>
#include <cmath>
#include <cstring>

#include "machine.h"

inline void __syncthreads(emulator::Site site = emulator::Site::current()) { emulator::block_barrier(site); }

inline void __threadfence() {
  asm volatile("" ::: "memory");
  emulator::fence();
}
inline void __threadfence_block() { asm volatile("" ::: "memory"); }
inline void __threadfence_system() { __threadfence(); }

inline long long clock64() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
[[noreturn]] inline void __trap(emulator::Site site = emulator::Site::current()) {
  emulator::fault(cudaErrorLaunchFailure, "__trap()", site);
}

namespace emulator {

template <class T>
void check_aligned(const T* pointer, const Site& site) {
  static_assert(sizeof(T) <= 16, "one access moves 16 bytes at the most");
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address % sizeof(T) != 0)
    fault(cudaErrorMisalignedAddress,
          "an access of " + std::to_string(sizeof(T)) + " bytes at an address that is " +
              std::to_string(address % sizeof(T)) + " above a multiple of that",
          site);
}

template <class T>
T read(const T* pointer, const Site& site) {
  check_aligned(pointer, site);
  if constexpr (sizeof(T) == 16) count_wide_read();
  T value;
  memcpy(&value, pointer, sizeof(T));
  return value;
}

template <class T>
void write(T* pointer, const T& value, const Site& site) {
  check_aligned(pointer, site);
  memcpy(pointer, &value, sizeof(T));
}

// Threads are switched at barriers and behind atomic operations only, so that plain code is atomic.
template <class T, class Change>
T exchange(T* address, const Site& site, Change change) {
  check_aligned(address, site);
  const T old = *address;
  *address = change(old);
  yield();
  return old;
}

template <class T>
struct Same {
  using type = T;
};
template <class T>
using SameAs = typename Same<T>::type;  // keeps an argument out of deduction

}  // namespace emulator

#define EMULATOR_LOAD(name)                                                   \
  template <class T>                                                          \
  T name(const T* pointer, emulator::Site site = emulator::Site::current()) { \
    return emulator::read(pointer, site);                                     \
  }
#define EMULATOR_STORE(name)                                                                          \
  template <class T>                                                                                  \
  void name(T* pointer, emulator::SameAs<T> value, emulator::Site site = emulator::Site::current()) { \
    emulator::write(pointer, value, site);                                                            \
  }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldcv)
EMULATOR_LOAD(__ldlu)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stwt)
#undef EMULATOR_LOAD
#undef EMULATOR_STORE

// Integers only: a sum of floats by atomics depends on the order of the threads.
#define EMULATOR_ATOMIC(name, T, expression)                                            \
  inline T name(T* address, T value, emulator::Site site = emulator::Site::current()) { \
    return emulator::exchange(address, site, [=](T old) { return expression; });        \
  }
#define EMULATOR_ATOMICS(T)                                                                             \
  EMULATOR_ATOMIC(atomicAdd, T, old + value)                                                            \
  EMULATOR_ATOMIC(atomicExch, T, (static_cast<void>(old), value))                                       \
  EMULATOR_ATOMIC(atomicMax, T, old > value ? old : value)                                              \
  EMULATOR_ATOMIC(atomicMin, T, old < value ? old : value)                                              \
  EMULATOR_ATOMIC(atomicAnd, T, old& value)                                                             \
  EMULATOR_ATOMIC(atomicOr, T, old | value)                                                             \
  inline T atomicCAS(T* address, T compare, T value, emulator::Site site = emulator::Site::current()) { \
    return emulator::exchange(address, site, [=](T old) { return old == compare ? value : old; });      \
  }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)
inline unsigned atomicInc(unsigned* address, unsigned value, emulator::Site site = emulator::Site::current()) {
  return emulator::exchange(address, site, [&](unsigned old) {
    emulator::count_block(old >= value, site);
    return old >= value ? 0 : old + 1;
  });
}
EMULATOR_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
#undef EMULATOR_ATOMICS
#undef EMULATOR_ATOMIC

// Rounded each by itself: compile with -ffp-contract=off.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __double2float_rn(double a) { return static_cast<float>(a); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }

template <class To, class From>
inline To emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
inline float __uint_as_float(unsigned bits) { return emulator_bits<float>(bits); }
inline float __int_as_float(int bits) { return emulator_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return emulator_bits<unsigned>(value); }
inline int __float_as_int(float value) { return emulator_bits<int>(value); }
inline double __longlong_as_double(long long bits) { return emulator_bits<double>(bits); }
inline long long __double_as_longlong(double value) { return emulator_bits<long long>(value); }

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }

// CUDA has these for numbers without a namespace.
#define EMULATOR_EXTREMA(T)                        \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
EMULATOR_EXTREMA(int)
EMULATOR_EXTREMA(unsigned)
EMULATOR_EXTREMA(long)
EMULATOR_EXTREMA(unsigned long)
EMULATOR_EXTREMA(long long)
EMULATOR_EXTREMA(unsigned long long)
#undef EMULATOR_EXTREMA
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
