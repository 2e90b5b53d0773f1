// Sixteen elements of an operand between its memory and two vectors, without a buffer in between.
//
// Values that are NaN have codes of their own, which takes as long again as the rest: `kHasNaN` says whether there may
// be one. So may remainders that make no pair with their parameter, which give a NaN where that is not looked for.
#pragma once

#include <type_traits>

#include "../codecs.h"
#include "fused.h"

namespace torchclip::cpu {

constexpr int kVector = 8, kGroup = 2 * kVector;

// Which elements the two vectors have: the first and the last eight; or, of operands of 16 bits alone, those of even
// and of odd number, which halves of 32 bits are apart in as they lie.
enum class Order { kInTurn, kEvenOdd };

using Group = FloatVector[2];

// Calls `visit` with the number of each slot in use.
template <unsigned Slots, class Visit>
TORCHCLIP_HD void for_each_slot(const Visit& visit) {
  if constexpr ((Slots & 1u) != 0) visit(std::integral_constant<int, 0>{});
  if constexpr ((Slots & 2u) != 0) visit(std::integral_constant<int, 1>{});
  if constexpr ((Slots & 4u) != 0) visit(std::integral_constant<int, 2>{});
}

TORCHCLIP_HD __m256i load_bits(const void* memory) { return _mm256_loadu_si256(static_cast<const __m256i*>(memory)); }
TORCHCLIP_HD void store_bits(void* memory, __m256i bits) { _mm256_storeu_si256(static_cast<__m256i*>(memory), bits); }
TORCHCLIP_HD __m256i bits_of(FloatVector value) { return _mm256_castps_si256(value.lanes); }
TORCHCLIP_HD FloatVector of_bits(__m256i bits) { return FloatVector::of(_mm256_castsi256_ps(bits)); }
// Where one of the two is NaN.
TORCHCLIP_HD VectorMask are_unordered(FloatVector a, FloatVector b) {
  return {_mm256_cmp_ps(a.lanes, b.lanes, _CMP_UNORD_Q)};
}
// With the canonical NaN in place of every other.
TORCHCLIP_HD FloatVector with_one_nan(FloatVector value) {
  return select(are_unordered(value, value), of_bits(_mm256_set1_epi32(0x7fc00000)), value);
}

// The upper halves of both as sixteen in memory's order, and the lower ones.
template <Order kOrder>
TORCHCLIP_HD __m256i upper_halves(__m256i first, __m256i second) {
  if constexpr (kOrder == Order::kEvenOdd) return _mm256_blend_epi16(_mm256_srli_epi32(first, 16), second, 0xaa);
  const __m256i mixed = _mm256_packus_epi32(_mm256_srli_epi32(first, 16), _mm256_srli_epi32(second, 16));
  return _mm256_permute4x64_epi64(mixed, 0xd8);
}
template <Order kOrder>
TORCHCLIP_HD __m256i lower_halves(__m256i first, __m256i second) {
  if constexpr (kOrder == Order::kEvenOdd) return _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa);
  const __m256i lower = _mm256_set1_epi32(0xffff);
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_and_si256(first, lower), _mm256_and_si256(second, lower)),
                                  0xd8);
}
// Both from their halves.
template <Order kOrder>
TORCHCLIP_HD void from_halves(__m256i upper, __m256i lower, Group& values) {
  if constexpr (kOrder == Order::kEvenOdd) {
    values[0] = of_bits(_mm256_blend_epi16(lower, _mm256_slli_epi32(upper, 16), 0xaa));
    values[1] = of_bits(_mm256_blend_epi16(_mm256_srli_epi32(lower, 16), upper, 0xaa));
  } else {
    const __m256i above = _mm256_permute4x64_epi64(upper, 0xd8), below = _mm256_permute4x64_epi64(lower, 0xd8);
    values[0] = of_bits(_mm256_unpacklo_epi16(below, above));
    values[1] = of_bits(_mm256_unpackhi_epi16(below, above));
  }
}

template <Order kOrder>
TORCHCLIP_HD void load_group(const float* memory, Group& values) {
  static_assert(kOrder == Order::kInTurn);
  for (int half = 0; half < 2; ++half) values[half] = FloatVector::of(_mm256_loadu_ps(memory + half * kVector));
}
template <Order kOrder>
TORCHCLIP_HD void load_group(const BFloat16* memory, Group& values) {
  if constexpr (kOrder == Order::kEvenOdd) {
    const __m256i stored = load_bits(memory);
    values[0] = of_bits(_mm256_slli_epi32(stored, 16));
    values[1] = of_bits(_mm256_and_si256(stored, _mm256_set1_epi32(-0x10000)));
  } else {
    for (int half = 0; half < 2; ++half) {
      const void* const eight = memory + half * kVector;
      const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(eight)));
      values[half] = of_bits(_mm256_slli_epi32(wide, 16));
    }
  }
}

// Of a split parameter: see join().
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD void join_group(const BFloat16* high, const int16_t* low, Group& values) {
  const __m256i stored = load_bits(high), remainder = load_bits(low);
  // A remainder below zero takes 1 from the upper half.
  from_halves<kOrder>(_mm256_add_epi16(stored, _mm256_srai_epi16(remainder, 15)), remainder, values);
  if constexpr (kHasNaN) {  // as sums of strays are
    Group alone;
    load_group<kOrder>(high, alone);
    for (int half = 0; half < 2; ++half)
      values[half] = select(are_unordered(values[half], values[half]), alone[half], values[half]);
  }
}

// Rounded to the nearest, ties to even. Returns what is stored.
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD __m256i store_group(const Group& values, BFloat16* memory) {
  __m256i rounded[2];
  for (int half = 0; half < 2; ++half) {
    const __m256i bits = bits_of(kHasNaN ? with_one_nan(values[half]) : values[half]);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    rounded[half] = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  }
  const __m256i stored = upper_halves<kOrder>(rounded[0], rounded[1]);
  store_bits(memory, stored);
  return stored;
}
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD void store_group(const Group& values, float* memory) {
  static_assert(kOrder == Order::kInTurn);
  for (int half = 0; half < 2; ++half) _mm256_storeu_ps(memory + half * kVector, values[half].lanes);
}
// See upper_part() and lower_part(). Returns the upper ones.
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD __m256i split_group(const Group& values, BFloat16* high, int16_t* low) {
  __m256i bits[2];
  for (int half = 0; half < 2; ++half) bits[half] = bits_of(kHasNaN ? with_one_nan(values[half]) : values[half]);
  const __m256i remainder = lower_halves<kOrder>(bits[0], bits[1]);
  const __m256i stored = _mm256_sub_epi16(upper_halves<kOrder>(bits[0], bits[1]), _mm256_srai_epi16(remainder, 15));
  store_bits(low, remainder);
  store_bits(high, stored);
  return stored;
}

// Exact zeros.
TORCHCLIP_HD int zeros_of(const Group& values) {
  int zeros = 0;
  for (const FloatVector& each : values) {
    const __m256 are_zero = _mm256_cmp_ps(each.lanes, _mm256_setzero_ps(), _CMP_EQ_OQ);
    zeros += __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(are_zero)));
  }
  return zeros;
}
TORCHCLIP_HD int zeros_of(__m256i halves) {
  const __m256i size = _mm256_slli_epi16(halves, 1);
  const int both = _mm256_movemask_epi8(_mm256_cmpeq_epi16(size, _mm256_setzero_si256()));
  return __builtin_popcount(static_cast<unsigned>(both)) / 2;
}

}  // namespace torchclip::cpu
