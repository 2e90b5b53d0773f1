// dim3 and the vector types, with CUDA's alignments.
#pragma once

#include <cstddef>
#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};

// Kernels read arrays of other types through these, which nvcc allows.
#define EMULATOR_PAIR(name, T)                                     \
  struct __attribute__((aligned(2 * sizeof(T)), may_alias)) name { \
    T x, y;                                                        \
  };                                                               \
  inline name make_##name(T x, T y) { return {x, y}; }
#define EMULATOR_QUAD(name, T)                                     \
  struct __attribute__((aligned(4 * sizeof(T)), may_alias)) name { \
    T x, y, z, w;                                                  \
  };                                                               \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATOR_PAIR(short2, short)
EMULATOR_PAIR(ushort2, unsigned short)
EMULATOR_PAIR(int2, int)
EMULATOR_PAIR(uint2, unsigned)
EMULATOR_PAIR(float2, float)
EMULATOR_PAIR(double2, double)
EMULATOR_PAIR(longlong2, long long)
EMULATOR_PAIR(ulonglong2, unsigned long long)
EMULATOR_QUAD(short4, short)
EMULATOR_QUAD(ushort4, unsigned short)
EMULATOR_QUAD(int4, int)
EMULATOR_QUAD(uint4, unsigned)
EMULATOR_QUAD(float4, float)

#undef EMULATOR_PAIR
#undef EMULATOR_QUAD
