// Sixteen numbers of 32 bits in a register: what loops over vectors ask of AVX-512. For files that compile everything
// for it. avx2.h has the same names for eight.
#pragma once

#include "../scalar_ops.h"
#include "functor_loops.h"
#include "x86.h"

#define TORCHCLIP_VECTORS avx512

namespace torchclip::cpu::avx512 {

using Set = Avx512;
using Lanes = __m512;
using Bits = __m512i;
constexpr int kVector = 16;
constexpr bool kHasMultiplyAdd = true;

// The first bytes of a vector in memory, and zeros for those behind. bytes: below 64, less than 0 for 0.
constexpr bool kHasParts = true;
TORCHCLIP_HD __mmask64 first_bytes(int64_t bytes) { return bytes <= 0 ? 0 : ~__mmask64{0} >> (64 - bytes); }
template <class Vector>
TORCHCLIP_HD Vector load_part(const void* memory, int64_t bytes) {
  return bit_cast<Vector>(_mm512_maskz_loadu_epi8(first_bytes(bytes), memory));
}
template <class Vector>
TORCHCLIP_HD void store_part(void* memory, Vector vector, int64_t bytes) {
  _mm512_mask_storeu_epi8(memory, first_bytes(bytes), bit_cast<__m512i>(vector));
}

// By lanes: what operators cannot be asked for.
struct VectorMask {
  __mmask16 lanes;
};
TORCHCLIP_HD VectorMask operator|(VectorMask a, VectorMask b) { return {static_cast<__mmask16>(a.lanes | b.lanes)}; }
TORCHCLIP_HD unsigned bits_of(VectorMask mask) { return mask.lanes; }
TORCHCLIP_HD __m512 broadcast(float each, __m512) { return _mm512_set1_ps(each); }
TORCHCLIP_HD VectorMask is_less(__m512 a, __m512 b) { return {_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)}; }
TORCHCLIP_HD VectorMask differs(__m512 a, __m512 b) { return {_mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ)}; }
TORCHCLIP_HD VectorMask are_unordered(__m512 a, __m512 b) { return {_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q)}; }
TORCHCLIP_HD __m512 chosen(VectorMask mask, __m512 a, __m512 b) { return _mm512_mask_blend_ps(mask.lanes, b, a); }
TORCHCLIP_HD __m512 root(__m512 value) { return _mm512_sqrt_ps(value); }
TORCHCLIP_HD __m512 without_sign(__m512 value) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), value); }
TORCHCLIP_HD __m512 sign_taken(__m512 value, __m512 sign) {
  constexpr int kFirstChooses = 0xca;  // bit by bit
  const __m512i taken = _mm512_ternarylogic_epi32(_mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(sign),
                                                  _mm512_castps_si512(value), kFirstChooses);
  return _mm512_castsi512_ps(taken);
}
TORCHCLIP_HD __m512 multiply_add(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }

// Which elements two vectors have: the first and the last sixteen. A permutation of both is one instruction.
enum class Order { kInTurn };
constexpr Order kOrderOfHalves = Order::kInTurn;

// The numbers 0, 2, 4... from `first` on.
TORCHCLIP_HD __m512i every_second(int first) {
  alignas(64) int16_t numbers[32];
  for (int i = 0; i < 32; ++i) numbers[i] = static_cast<int16_t>(first + 2 * i);
  return _mm512_load_si512(numbers);
}
// The numbers of two by turns, `first` and what is 32 behind it, and the next ones.
TORCHCLIP_HD __m512i by_turns(int first) {
  alignas(64) int16_t numbers[32];
  for (int i = 0; i < 32; ++i) numbers[i] = static_cast<int16_t>(first + i / 2 + 32 * (i % 2));
  return _mm512_load_si512(numbers);
}

// Halves of 32 bits, by 32 in memory's order.
template <Order>
TORCHCLIP_HD __m512i upper_halves(__m512i first, __m512i second) {
  return _mm512_permutex2var_epi16(first, every_second(1), second);
}
template <Order>
TORCHCLIP_HD __m512i lower_halves(__m512i first, __m512i second) {
  return _mm512_permutex2var_epi16(first, every_second(0), second);
}
// Both from their halves.
template <Order>
TORCHCLIP_HD void from_halves(__m512i upper, __m512i lower, __m512i (&both)[2]) {
  both[0] = _mm512_permutex2var_epi16(lower, by_turns(0), upper);
  both[1] = _mm512_permutex2var_epi16(lower, by_turns(16), upper);
}

// Bits whose upper halves are those of the nearest, ties to even.
TORCHCLIP_HD __m512i rounded_to_half(__m512i bits) {
  const __mmask16 is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i even = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(even, is_odd, bits, _mm512_set1_epi32(0x8000));
}

template <bool is_signed>
TORCHCLIP_HD __m512 load_bytes(const uint8_t* bytes) {
  const __m128i stored = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  return _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(stored) : _mm512_cvtepu8_epi32(stored));
}
// The lowest byte of each word.
constexpr int kVectorsOfBytes = 1;  // that are taken at once
TORCHCLIP_HD __m128i lowest_bytes(const __m512i (&words)[kVectorsOfBytes]) { return _mm512_cvtepi32_epi8(words[0]); }

TORCHCLIP_HD __m512 larger_lanes(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
// Where `sign` is not above zero, 0.
TORCHCLIP_HD __m512 kept_above_zero(__m512 value, __m512 sign) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(sign, _mm512_setzero_ps(), _CMP_GT_OQ), value);
}
// Of halves of 32 bits, 0 in place of less.
TORCHCLIP_HD __m512i subtract_halves(__m512i a, __m512i b) { return _mm512_subs_epu16(a, b); }

}  // namespace torchclip::cpu::avx512
