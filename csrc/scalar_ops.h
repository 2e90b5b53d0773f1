// Scalars that host and device code share: storage types, conversions, and the few functions that the rules need.
// No torch header and no CUDA header is included, so that any compiler can read the rules.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define TORCHCLIP_HD __host__ __device__ __forceinline__
#else
#define TORCHCLIP_HD inline __attribute__((always_inline))
#endif

namespace torchclip {

// Storage only; every computation is done in ComputeType. Enumerations, not structs: GCC vectorises a store of a
// scalar, and not the copy of a struct.
enum class BFloat16 : uint16_t {};
enum class Float16 : uint16_t {};

template <class T>
struct ComputeTypeOf {
  using type = float;
};
template <>
struct ComputeTypeOf<double> {
  using type = double;
};
template <class T>
using ComputeType = typename ComputeTypeOf<T>::type;

template <class To, class From>
TORCHCLIP_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

TORCHCLIP_HD float load(float value) { return value; }
TORCHCLIP_HD double load(double value) { return value; }
TORCHCLIP_HD float load(BFloat16 value) { return bit_cast<float>(static_cast<uint32_t>(value) << 16); }

// Written with selects and no branches: a branch would keep the loop around it from being vectorised. A GPU has an
// instruction for each of these conversions, where the integer operations would take longer than the memory.
TORCHCLIP_HD float load(Float16 value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(static_cast<uint16_t>(value)));
  return result;
#else
  const uint32_t sign = (static_cast<uint32_t>(value) & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value) & 0x7fffu;
  constexpr uint32_t kRebias = (127u - 15u) << 23;
  uint32_t bits = (magnitude << 13) + kRebias;
  bits += magnitude >= 0x7c00u ? kRebias : 0u;  // infinity and NaN: the exponent goes on to 255
  const uint32_t subnormal = bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  bits = magnitude < 0x0400u ? subnormal : bits;
  return bit_cast<float>(bits | sign);
#endif
}

template <class T>
TORCHCLIP_HD T store(ComputeType<T> value) {
  return value;
}

// Round to nearest, ties to even; a NaN stays a NaN.
template <>
TORCHCLIP_HD BFloat16 store<BFloat16>(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(value));
  return static_cast<BFloat16>(result);
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<BFloat16>(static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded));
#endif
}

template <>
TORCHCLIP_HD Float16 store<Float16>(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
  return static_cast<Float16>(result);
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal results: rebias, then add half a unit in the last place less one, and the bit that breaks ties to even.
  const uint32_t normal = (magnitude - ((127u - 15u) << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal results: adding 0.5 makes the float adder round at the right bit, 2^-24.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // 65520 and above round to infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return static_cast<Float16>(static_cast<uint16_t>(half | sign));
#endif
}

TORCHCLIP_HD float square_root(float value) { return sqrtf(value); }
TORCHCLIP_HD double square_root(double value) { return sqrt(value); }
TORCHCLIP_HD float magnitude(float value) { return fabsf(value); }
TORCHCLIP_HD double magnitude(double value) { return fabs(value); }
TORCHCLIP_HD float with_sign_of(float value, float sign) { return copysignf(value, sign); }
TORCHCLIP_HD double with_sign_of(double value, double sign) { return copysign(value, sign); }

template <class C>
TORCHCLIP_HD C square(C value) {
  return value * value;
}

// A weight of 0 leaves a term out: 0 times an infinite value would be a NaN. The compiler makes two loops of one, for 0
// and for others, so that it is used where it can matter and nowhere else.
template <class K, class C>
TORCHCLIP_HD C term(K weight, C value) {
  return weight * (weight == K(0) ? C(0) : value);
}

// As `condition ? a : b`, which vectors of numbers cannot be asked for.
template <class C>
TORCHCLIP_HD C select(bool condition, C a, C b) {
  return condition ? a : b;
}

// Comparisons are written so that a NaN in `value` survives, as it does in torch.clamp and torch.maximum.
template <class C>
TORCHCLIP_HD C at_least(C value, C bound) {
  return select(value < bound, bound, value);
}
template <class C>
TORCHCLIP_HD C at_most(C value, C bound) {
  return select(value > bound, bound, value);
}

// By arithmetic, which host and device share.
TORCHCLIP_HD bool is_finite(double value) { return value - value == 0; }

// Whether it counts something: such numbers come from checkpoints, and indices are made of them.
TORCHCLIP_HD bool is_count(double value) { return value >= 0 && value <= 9007199254740992.0; }

// The whole part of a count, and 0 for what is none: a conversion of NaN, say, could become any index.
TORCHCLIP_HD int64_t whole_number(double value) { return is_count(value) ? static_cast<int64_t>(value) : 0; }

// The larger one, or NaN when one of them is NaN, as torch.maximum.
template <class C>
TORCHCLIP_HD C larger(C a, C b) {
  return select((a != a) | (a > b), a, b);
}

}  // namespace torchclip
