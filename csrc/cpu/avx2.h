// Eight numbers of 32 bits in a register: what loops over vectors ask of AVX2. For files that compile everything for
// it. avx512.h has the same names for sixteen.
#pragma once

#include "../scalar_ops.h"
#include "functor_loops.h"
#include "x86.h"

#define TORCHCLIP_VECTORS avx2

namespace torchclip::cpu::avx2 {

using Set = Avx2;
using Lanes = __m256;
using Bits = __m256i;
constexpr int kVector = 8;
// Macros do not tell what a pragma has asked for.
constexpr bool kHasMultiplyAdd = __GNUC__ >= 12;

// Whether vectors are loaded and stored in part.
constexpr bool kHasParts = false;

// By lanes: what operators cannot be asked for.
struct VectorMask {
  __m256 lanes;  // all bits of a number, or none
};
TORCHCLIP_HD VectorMask operator|(VectorMask a, VectorMask b) { return {_mm256_or_ps(a.lanes, b.lanes)}; }
TORCHCLIP_HD unsigned bits_of(VectorMask mask) { return static_cast<unsigned>(_mm256_movemask_ps(mask.lanes)); }
TORCHCLIP_HD __m256 broadcast(float each, __m256) { return _mm256_set1_ps(each); }
TORCHCLIP_HD VectorMask is_less(__m256 a, __m256 b) { return {_mm256_cmp_ps(a, b, _CMP_LT_OQ)}; }
TORCHCLIP_HD VectorMask differs(__m256 a, __m256 b) { return {_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)}; }
TORCHCLIP_HD VectorMask are_unordered(__m256 a, __m256 b) { return {_mm256_cmp_ps(a, b, _CMP_UNORD_Q)}; }
TORCHCLIP_HD __m256 chosen(VectorMask mask, __m256 a, __m256 b) { return _mm256_blendv_ps(b, a, mask.lanes); }
TORCHCLIP_HD __m256 root(__m256 value) { return _mm256_sqrt_ps(value); }
TORCHCLIP_HD __m256 without_sign(__m256 value) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), value); }
TORCHCLIP_HD __m256 sign_taken(__m256 value, __m256 sign) {
  return _mm256_or_ps(without_sign(value), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
#if __GNUC__ >= 12
TORCHCLIP_HD __m256 multiply_add(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
#else
TORCHCLIP_HD __m256 multiply_add(__m256 a, __m256 b, __m256 c) { return a * b + c; }
#endif

// Which elements two vectors have: the first and the last eight; or, of operands of 16 bits alone, those of even and of
// odd number, which halves of 32 bits are apart in as they lie.
enum class Order { kInTurn, kEvenOdd };
constexpr Order kOrderOfHalves = Order::kEvenOdd;

// Halves of 32 bits, by sixteen in memory's order.
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
TORCHCLIP_HD void from_halves(__m256i upper, __m256i lower, __m256i (&both)[2]) {
  if constexpr (kOrder == Order::kEvenOdd) {
    both[0] = _mm256_blend_epi16(lower, _mm256_slli_epi32(upper, 16), 0xaa);
    both[1] = _mm256_blend_epi16(_mm256_srli_epi32(lower, 16), upper, 0xaa);
  } else {
    const __m256i above = _mm256_permute4x64_epi64(upper, 0xd8), below = _mm256_permute4x64_epi64(lower, 0xd8);
    both[0] = _mm256_unpacklo_epi16(below, above);
    both[1] = _mm256_unpackhi_epi16(below, above);
  }
}

// Bits whose upper halves are those of the nearest, ties to even.
TORCHCLIP_HD __m256i rounded_to_half(__m256i bits) {
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
}

template <bool is_signed>
TORCHCLIP_HD __m256 load_bytes(const uint8_t* bytes) {
  const __m128i stored = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
  return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(stored) : _mm256_cvtepu8_epi32(stored));
}
// The lowest byte of each word.
constexpr int kVectorsOfBytes = 4;  // that are taken at once
TORCHCLIP_HD __m256i lowest_bytes(const __m256i (&words)[kVectorsOfBytes]) {
  const auto low = [&](int i)
                       __attribute__((always_inline)) { return _mm256_and_si256(words[i], _mm256_set1_epi32(0xff)); };
  const __m256i first = _mm256_packus_epi32(low(0), low(1)), second = _mm256_packus_epi32(low(2), low(3));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order);
}
TORCHCLIP_HD __m256 larger_lanes(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
// Where `sign` is not above zero, 0.
TORCHCLIP_HD __m256 kept_above_zero(__m256 value, __m256 sign) {
  return _mm256_and_ps(value, _mm256_cmp_ps(sign, _mm256_setzero_ps(), _CMP_GT_OQ));
}
// Of halves of 32 bits, 0 in place of less.
TORCHCLIP_HD __m256i subtract_halves(__m256i a, __m256i b) { return _mm256_subs_epu16(a, b); }

}  // namespace torchclip::cpu::avx2
