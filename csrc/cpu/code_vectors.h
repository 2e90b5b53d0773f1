// 8-bit codes of eight elements between memory and a vector: encode() and decode() of codecs.h, for files that compile
// everything for AVX2.
#pragma once

#include "half_vectors.h"

namespace torchclip::cpu {

constexpr int kCodesTogether = 32;  // that are written at once

template <bool is_signed>
TORCHCLIP_HD FloatVector decode_codes(const uint8_t* codes, FloatVector scale) {
  using Map = RootMap<is_signed>;
  // Steps have their bits in the upper half, so that a subtraction of halves, which stops at 0, makes 0 of 0.
  constexpr uint32_t kOffset = Map::kOffset + (static_cast<uint32_t>(Map::kStepBits) << 23);
  static_assert(kOffset << 16 == 0 && kOffset < 1u << 31);
  const __m128i stored = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  const __m256 step = _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(stored) : _mm256_cvtepu8_epi32(stored));
  const __m256i bits = _mm256_castps_si256(step);
  if constexpr (!is_signed) {
    const __m256i root = _mm256_subs_epu16(bits, _mm256_set1_epi32(static_cast<int>(kOffset)));
    return of_bits(_mm256_slli_epi32(root, Map::kHalvings)) * scale;
  }
  static_assert(!is_signed || Map::kHalvings == 1);  // shifts the sign out
  const __m256i power =
      _mm256_subs_epu16(_mm256_slli_epi32(bits, 1), _mm256_set1_epi32(static_cast<int>(kOffset << 1)));
  const FloatVector size = of_bits(power) * scale;
  return FloatVector::of(_mm256_or_ps(size.lanes, _mm256_and_ps(step, _mm256_set1_ps(-0.0f))));
}

// Their lowest bytes are codes, where there is an inverse.
template <bool is_signed>
TORCHCLIP_HD __m256i encoded(const float* values, FloatVector inverse) {
  using Map = RootMap<is_signed>;
  const __m256 value = _mm256_load_ps(values);
  const __m256i bits = _mm256_castps_si256(_mm256_mul_ps(value, inverse.lanes)),
                offset = _mm256_set1_epi32(Map::kOffset);
  __m256 root;
  if constexpr (is_signed) {
    // The sign comes along, and once more in the bit behind it, which is 0 of roots: they are below 2.
    const __m256i signed_root = _mm256_add_epi32(_mm256_srai_epi32(bits, Map::kHalvings), offset);
    root = _mm256_castsi256_ps(_mm256_and_si256(signed_root, _mm256_set1_epi32(~(1 << 30))));
  } else {
    const __m256i any_root = _mm256_add_epi32(_mm256_srli_epi32(bits, Map::kHalvings), offset);
    root = _mm256_max_ps(_mm256_castsi256_ps(any_root), _mm256_set1_ps(Map::kStep));
    root = _mm256_and_ps(root, _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_GT_OQ));
  }
  return _mm256_castps_si256(_mm256_add_ps(root, _mm256_set1_ps(Map::kRounder)));
}

// The codes of kCodesTogether values, which lie on a boundary of a vector; 0 where there is no inverse.
template <bool is_signed>
TORCHCLIP_HD void encode_codes(const float* values, FloatVector inverse, uint8_t* codes) {
  const __m256i low = _mm256_set1_epi32(0xff);
  __m256i bytes[4];
  for (int i = 0; i < 4; ++i) bytes[i] = _mm256_and_si256(encoded<is_signed>(values + i * kVector, inverse), low);
  const __m256i first = _mm256_packus_epi32(bytes[0], bytes[1]), second = _mm256_packus_epi32(bytes[2], bytes[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i together = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order);
  const __m256 has_inverse = _mm256_cmp_ps(inverse.lanes, _mm256_setzero_ps(), _CMP_GT_OQ);
  store_bits(codes, _mm256_and_si256(together, _mm256_castps_si256(has_inverse)));
}

// The largest magnitude of a block so far, by its bits.
TORCHCLIP_HD __m256i larger_bits(__m256i largest, FloatVector value) {
  return _mm256_max_epu32(largest, bits_of(magnitude(value)));
}
TORCHCLIP_HD float largest_of(__m256i bits) {
  alignas(32) uint32_t each[kVector];
  _mm256_store_si256(reinterpret_cast<__m256i*>(each), bits);
  uint32_t largest = 0;
  for (const uint32_t own : each) largest = own > largest ? own : largest;
  return bit_cast<float>(largest);
}

}  // namespace torchclip::cpu
