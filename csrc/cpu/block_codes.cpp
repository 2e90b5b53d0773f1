// 8-bit codes of blocks. A table of 256 is looked up one by one; of the dynamic map, whose decades are lines, all that
// differs between decades fits into one vector of eight, so that codes are made and read by arithmetic.
#include <algorithm>
#include <limits>

#include "../dynamic_map.h"
#include "clones.h"
#include "codec_loops.h"
#include "x86.h"

namespace torchclip::cpu {
namespace {

// The largest magnitude; NaN where there is one, whose bits are larger than those of any number.
TORCHCLIP_CLONES float largest(const float* values, int64_t count) {
  uint32_t bits = 0;
  for (int64_t i = 0; i < count; ++i) bits = std::max(bits, bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  return bit_cast<float>(bits);
}

template <bool is_signed>
void encode_each(const float* values, float absmax, int64_t count, uint8_t* codes) {
  for (int64_t i = 0; i < count; ++i) codes[i] = nearest_code<is_signed>(kMap<is_signed>.middles, values[i], absmax);
}

template <bool is_signed>
void decode_each(const uint8_t* codes, float absmax, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = kMap<is_signed>.values[codes[i]] * absmax;
}

#if defined(TORCHCLIP_X86)

// By decade, the last of which is 1 alone.
template <bool is_signed>
struct Decades {
  static constexpr int kAll = DynamicMap::kDecades + 1;
  // To encode: x between two middles has the number trunc(slope x + offset) / 2^16, in its decade `last` at the most.
  static constexpr int kFractionBits = 16;
  // As near to the next whole number, or behind one, x may be on the other side: by its own error and the line's, a
  // few units of 2^-24 each of up to 2^24.
  static constexpr int kUnsure = 6;
  // The decade below a border is the one that is unsure there: the one above, whose border is no whole number, begins
  // later by more than the error of x.
  static constexpr double kLater = 1 + 0x1p-22;

  alignas(32) float next[kAll] = {};  // where the next decade begins
  alignas(32) float slope[kAll] = {}, offset[kAll] = {};
  alignas(32) int32_t last[kAll] = {};
  // To decode: a value is unit (multiplier n + addend), whole numbers but for the unit, so that it is rounded once. n
  // is double the value's number, or of those without a sign one more than it: in [2^(decade + 1), 2^(decade + 2)).
  alignas(32) float multiplier[kAll] = {}, addend[kAll] = {}, unit[kAll] = {};

  constexpr Decades() {
    const DynamicMap& map = kMap<is_signed>;
    const auto value = [&](int number) { return static_cast<double>(map.values[map.zero + number]); };
    int first = 1;  // number of the decade's first value
    for (int decade = 0; decade < DynamicMap::kDecades; ++decade) {
      const double end = DynamicMap::kEnds[decade];
      const int parts = DynamicMap::parts_of(decade, is_signed), behind = first + parts;
      const double border = decade + 1 < DynamicMap::kDecades ? map.middles[behind - 1] : map.last_middle;
      next[decade] = static_cast<float>(border * (decade + 1 < DynamicMap::kDecades ? kLater : 1 / kLater));
      last[decade] = behind - 1;
      if (decade > 0) {
        line(decade, first, 0.1 * end, behind, end);
      } else {  // between the first middle that counts and the border: what has no sign and is above 0 stays above it
        const int low = is_signed ? 1 : 2;
        line(decade, low, map.middles[low - 1], behind, border);
      }
      fit(decade, parts, value(first));
      first = behind;
    }
    const int one = DynamicMap::kDecades;
    next[one] = std::numeric_limits<float>::infinity();
    line(one, first, map.last_middle, first + 1.0 / 16, 1.0);  // 1 is sure
    last[one] = first;
    multiplier[one] = unit[one] = 1;
    addend[one] = 1 - 256;
  }

 private:
  // The line through two points.
  constexpr void line(int decade, double low, double from, double high, double to) {
    const double steepness = (high - low) / (to - from) * (1 << kFractionBits);
    slope[decade] = static_cast<float>(steepness);
    offset[decade] = static_cast<float>(low * (1 << kFractionBits) - steepness * from);
  }
  // A value is end / (20 parts) times 2 parts + 9 (2 part + 1). Multiplied by the smallest factor with which the unit's
  // own rounding shows in no value.
  constexpr void fit(int decade, int parts, double first) {
    if (parts == 1) {  // 0 has no decade of its own, and lies on this line
      multiplier[decade] = 1;
      unit[decade] = static_cast<float>(first / 2);
      return;
    }
    bool fits = false;
    for (int factor = 1; !fits; ++factor) {
      multiplier[decade] = static_cast<float>((is_signed ? 9 : 18) * factor);
      addend[decade] = static_cast<float>((9 - 16 * parts) * factor);
      unit[decade] = static_cast<float>(DynamicMap::kEnds[decade] / (20.0 * parts) / factor);
      fits = true;
      for (int part = 0; part < parts; ++part) {
        const float n = static_cast<float>((parts + part) * (is_signed ? 2 : 1));
        const int number = parts + part - (is_signed ? 0 : 1);
        fits &= (multiplier[decade] * n + addend[decade]) * unit[decade] ==
                kMap<is_signed>.values[kMap<is_signed>.zero + number];
      }
    }
  }
};
template <bool is_signed>
constexpr Decades<is_signed> kDecades;

#define TORCHCLIP_AVX2 __attribute__((target("avx2,fma")))
#define TORCHCLIP_AVX2_INLINE __attribute__((target("avx2,fma"), always_inline)) inline

TORCHCLIP_AVX2_INLINE __m256 chosen(const float* of_decades, __m256i decade) {
  return _mm256_permutevar8x32_ps(_mm256_load_ps(of_decades), decade);
}

// `count` is a multiple of 8.
template <bool is_signed>
TORCHCLIP_AVX2 void decode_eights(const uint8_t* codes, float absmax, int64_t count, float* values) {
  const Decades<is_signed>& decades = kDecades<is_signed>;
  const __m256 scale = _mm256_set1_ps(absmax), sign = _mm256_set1_ps(-0.0f);
  for (int64_t i = 0; i < count; i += 8) {
    const __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
    const __m256i n = is_signed ? _mm256_sub_epi32(_mm256_add_epi32(code, code), _mm256_set1_epi32(254))
                                : _mm256_add_epi32(code, _mm256_set1_epi32(1));
    const __m256 number = _mm256_cvtepi32_ps(n);
    // A permutation looks at three bits of the exponent, 128 + decade; of a signed 0, which has the first one's, too.
    const __m256i decade = _mm256_srli_epi32(_mm256_castps_si256(number), 23);
    const __m256 size = is_signed ? _mm256_andnot_ps(sign, number) : number;
    const __m256 whole = _mm256_fmadd_ps(size, chosen(decades.multiplier, decade), chosen(decades.addend, decade));
    __m256 value = _mm256_mul_ps(whole, chosen(decades.unit, decade));
    if constexpr (is_signed) {
      value = _mm256_or_ps(value, _mm256_and_ps(sign, number));
    } else {  // 0 has the exponent of 1
      const __m256i is_zero = _mm256_cmpeq_epi32(code, _mm256_setzero_si256());
      value = _mm256_andnot_ps(_mm256_castsi256_ps(is_zero), value);
    }
    value = _mm256_mul_ps(value, scale);
    _mm256_storeu_ps(values + i, value);
  }
}

// The numbers of eight values, negative where those are. The smallest fraction, from kUnsure below a whole number on,
// is kept in the lower halves of `least`.
template <bool is_signed>
TORCHCLIP_AVX2_INLINE __m256i numbers_of(const float* values, __m256 inverse, __m256i& least) {
  using Own = Decades<is_signed>;
  const Own& decades = kDecades<is_signed>;
  const __m256 value = _mm256_loadu_ps(values);
  const __m256 size = _mm256_mul_ps(is_signed ? _mm256_andnot_ps(_mm256_set1_ps(-0.0f), value) : value, inverse);
  // 154 / 2^16 of the bits are 32 decades and as many as there are below, one less above the middle of some: their
  // upper 16 are an exponent with a fraction, and those of 10^k lie 425 apart.
  const __m256i bits = _mm256_castps_si256(_mm256_max_ps(size, _mm256_set1_ps(7e-7f)));
  const __m256i below = _mm256_srli_epi32(_mm256_mulhi_epu16(bits, _mm256_set1_epi16(154)), 16);
  const __m256 reaches = _mm256_cmp_ps(size, chosen(decades.next, below), _CMP_GE_OQ);
  const __m256i decade = _mm256_sub_epi32(below, _mm256_castps_si256(reaches));
  const __m256 place = _mm256_fmadd_ps(size, chosen(decades.slope, decade), chosen(decades.offset, decade));
  const __m256i fixed = _mm256_cvttps_epi32(place);
  least = _mm256_min_epu16(least, _mm256_add_epi32(fixed, _mm256_set1_epi32(Own::kUnsure)));
  const __m256i last =
      _mm256_permutevar8x32_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(decades.last)), decade);
  const __m256i number = _mm256_min_epi32(_mm256_srli_epi32(fixed, Own::kFractionBits), last);
  const __m256i own = _mm256_castps_si256(value);
  if constexpr (is_signed) return _mm256_sign_epi32(number, own);
  return _mm256_and_si256(number, _mm256_cmpgt_epi32(own, _mm256_setzero_si256()));
}

// `count` is a multiple of 32; 1 / absmax is a normal number.
template <bool is_signed>
TORCHCLIP_AVX2 void encode_eights(const float* values, float absmax, int64_t count, uint8_t* codes) {
  using Own = Decades<is_signed>;
  const __m256 inverse = _mm256_set1_ps(1.0f / absmax);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), zero = _mm256_setzero_si256();
  for (int64_t i = 0; i < count; i += 32) {
    __m256i least = _mm256_set1_epi32(-1);
    __m256i number[4];
    for (int v = 0; v < 4; ++v) number[v] = numbers_of<is_signed>(values + i + 8 * v, inverse, least);
    const __m256i fraction = _mm256_and_si256(least, _mm256_set1_epi32((1 << Own::kFractionBits) - 1));
    const __m256i is_unsure = _mm256_cmpgt_epi32(_mm256_set1_epi32(2 * Own::kUnsure), fraction);
    if (_mm256_movemask_epi8(is_unsure) != 0) {
      encode_each<is_signed>(values + i, absmax, 32, codes + i);
      continue;
    }
    const __m256i low = _mm256_packs_epi32(number[0], number[1]), high = _mm256_packs_epi32(number[2], number[3]);
    __m256i bytes;
    if constexpr (is_signed) {  // turned, so that -1, which there is not, becomes the number before
      bytes = _mm256_packs_epi16(_mm256_sub_epi16(zero, low), _mm256_sub_epi16(zero, high));
      bytes = _mm256_sub_epi8(_mm256_set1_epi8(127), bytes);
    } else {
      bytes = _mm256_packus_epi16(low, high);
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), _mm256_permutevar8x32_epi32(bytes, order));
  }
}

bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
const bool kHasAvx2 = has_avx2();

#else
constexpr bool kHasAvx2 = false;
#endif

template <bool is_signed>
void decode_block(const uint8_t* codes, float absmax, int64_t count, float* values) {
  int64_t done = 0;
#if defined(TORCHCLIP_X86)
  if (kHasAvx2) decode_eights<is_signed>(codes, absmax, done = count / 8 * 8, values);
#endif
  decode_each<is_signed>(codes + done, absmax, count - done, values + done);
}

template <bool is_signed>
void encode_block(const float* values, float absmax, int64_t count, uint8_t* codes) {
  if (absmax == 0.0f) {
    std::fill_n(codes, count, static_cast<uint8_t>(kMap<is_signed>.zero));
    return;
  }
  int64_t done = 0;
#if defined(TORCHCLIP_X86)
  if (kHasAvx2 && absmax > 0x1p-100f && absmax < 0x1p100f)
    encode_eights<is_signed>(values, absmax, done = count / 32 * 32, codes);
#endif
  encode_each<is_signed>(values + done, absmax, count - done, codes + done);
}

}  // namespace

void decode_blocks(const uint8_t* codes, const float* absmax, bool is_signed, int64_t count, float* values) {
  for (int64_t begin = 0; begin < count; begin += kBlock)
    (is_signed ? decode_block<true> : decode_block<false>)(codes + begin, absmax[begin / kBlock],
                                                           std::min(kBlock, count - begin), values + begin);
}

void encode_blocks(const float* values, bool is_signed, int64_t count, uint8_t* codes, float* absmax) {
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t own = std::min(kBlock, count - begin);
    float& scale = absmax[begin / kBlock] = largest(values + begin, own);
    (is_signed ? encode_block<true> : encode_block<false>)(values + begin, scale, own, codes + begin);
  }
}

}  // namespace torchclip::cpu
