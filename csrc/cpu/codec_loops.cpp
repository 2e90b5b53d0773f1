#include "codec_loops.h"

#include <algorithm>

#include "../dynamic_map.h"
#include "clones.h"
#include "x86.h"

namespace torchclip::cpu {
namespace {

template <class T>
__attribute__((always_inline)) inline int64_t zeros_of(const T* stored, int64_t count) {
  int64_t zeros = 0;
  for (int64_t i = 0; i < count; ++i) zeros += load(stored[i]) == 0.0f;
  return zeros;
}

// The largest magnitude; NaN where there is one, whose bits are larger than those of any number.
__attribute__((always_inline)) inline float largest(const float* values, int64_t count) {
  uint32_t bits = 0;
  for (int64_t i = 0; i < count; ++i) bits = std::max(bits, bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  return bit_cast<float>(bits);
}

// What a table of 256 has at each index.
using LookUp = void (*)(const float* table, const uint8_t* indices, int64_t count, float* values);

void look_up(const float* table, const uint8_t* indices, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = table[indices[i]];
}

#if defined(TORCHCLIP_X86)

// Eight permutations of 32 values each, of which the index's upper bits choose one: processors that were patched
// against Downfall gather more slowly than they load one by one.
__attribute__((target("avx512f"))) void look_up_512(const float* table, const uint8_t* indices, int64_t count,
                                                    float* values) {
  constexpr int kTables = 16;
  __m512 part[kTables];
  for (int i = 0; i < kTables; ++i) part[i] = _mm512_loadu_ps(table + 16 * i);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(indices + i)));
    const __mmask16 bit5 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
    const __mmask16 bit6 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(64));
    const __mmask16 bit7 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(128));
    __m512 found[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) found[j] = _mm512_permutex2var_ps(part[2 * j], index, part[2 * j + 1]);
#pragma GCC unroll 4
    for (int j = 0; j < 8; j += 2) found[j] = _mm512_mask_mov_ps(found[j], bit5, found[j + 1]);
    found[0] = _mm512_mask_mov_ps(found[0], bit6, found[2]);
    found[4] = _mm512_mask_mov_ps(found[4], bit6, found[6]);
    _mm512_storeu_ps(values + i, _mm512_mask_mov_ps(found[0], bit7, found[4]));
  }
  look_up(table, indices + i, count - i, values + i);
}

LookUp fastest() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") ? look_up_512 : look_up;
}
const LookUp kLookUp = fastest();

#else
const LookUp kLookUp = look_up;
#endif

// Not a loop over decades: the compiler vectorises none around it.
__attribute__((always_inline)) inline void choose(float size, const DynamicMap::Line& line, float& slope,
                                                  float& offset) {
  slope = size >= line.begin ? line.slope : slope;
  offset = size >= line.begin ? line.offset : offset;
}

// The codes of the nearest values, of two equally near ones the lower. values: [kBlock]; a NaN by the absmax becomes
// the last code, as in torch.bucketize.
template <bool Signed>
__attribute__((always_inline)) inline void encode_block(const DynamicMap& map, const float* values, float absmax,
                                                        uint8_t* codes) {
  alignas(64) float scaled[kBlock], middles[kBlock];
  alignas(64) uint8_t guesses[kBlock];
  const float scale = absmax > 0.0f ? absmax : 1.0f;
  const DynamicMap::Line first = map.lines[0], second = map.lines[1], third = map.lines[2], fourth = map.lines[3],
                         fifth = map.lines[4], sixth = map.lines[5], seventh = map.lines[6];
  const float most = map.largest_guess;
  for (int64_t i = 0; i < kBlock; ++i) {
    scaled[i] = values[i] / scale;
    const float size = std::fabs(scaled[i]);
    float slope = first.slope, offset = first.offset;
    choose(size, second, slope, offset);
    choose(size, third, slope, offset);
    choose(size, fourth, slope, offset);
    choose(size, fifth, slope, offset);
    choose(size, sixth, slope, offset);
    choose(size, seventh, slope, offset);
    const float guess = size * slope + offset;
    const float above_zero = guess > 0.0f ? guess : 0.0f;
    guesses[i] = static_cast<uint8_t>(static_cast<int32_t>(above_zero < most ? above_zero : most));
  }
  kLookUp(map.middles, guesses, kBlock, middles);
  const float last = map.last_middle;
  for (int64_t i = 0; i < kBlock; ++i) {
    const float size = std::fabs(scaled[i]);
    const int32_t below = guesses[i] + (size > middles[i] ? 1 : 0) + (size > last ? 1 : 0);
    int32_t code;
    if constexpr (Signed) {
      constexpr int32_t kZero = 127;  // its neighbours lie alike on both sides, but that there is no -1
      const int32_t reached = guesses[i] + (size >= middles[i] ? 1 : 0);
      code = scaled[i] < 0.0f ? kZero - reached : kZero + below;
    } else {
      code = values[i] > 0.0f ? std::max(below, 1) : 0;  // what is above zero divides, and stays above
    }
    codes[i] = static_cast<uint8_t>(scaled[i] == scaled[i] ? code : 255);
  }
}

template <bool Signed>
__attribute__((always_inline)) inline void encode(const float* values, int64_t count, uint8_t* codes, float* absmax) {
  const DynamicMap& map = kMap<Signed>;
  int64_t begin = 0;
  for (; begin + kBlock <= count; begin += kBlock) {
    absmax[begin / kBlock] = largest(values + begin, kBlock);
    encode_block<Signed>(map, values + begin, absmax[begin / kBlock], codes + begin);
  }
  if (begin == count) return;
  const size_t rest = static_cast<size_t>(count - begin);
  alignas(64) float last[kBlock] = {};
  uint8_t last_codes[kBlock];
  std::copy_n(values + begin, rest, last);
  absmax[begin / kBlock] = largest(last, kBlock);
  encode_block<Signed>(map, last, absmax[begin / kBlock], last_codes);
  std::copy_n(last_codes, rest, codes + begin);
}

}  // namespace

TORCHCLIP_CLONES void widen(const BFloat16* stored, int64_t count, float* values) {
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) values[i] = load(stored[i]);
}

TORCHCLIP_CLONES void widen(const Float16* stored, int64_t count, float* values) {
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) values[i] = load(stored[i]);
}

TORCHCLIP_CLONES void join_all(const BFloat16* high, const int16_t* low, int64_t count, float* values) {
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) values[i] = join(high[i], low[i]);
}

TORCHCLIP_CLONES void decode_blocks(const uint8_t* codes, const float* absmax, bool is_signed, int64_t count,
                                    float* values) {
  const float* const table = (is_signed ? kMap<true> : kMap<false>).values;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const float scale = absmax[begin / kBlock];
    const int64_t end = std::min(begin + kBlock, count);
    kLookUp(table, codes + begin, end - begin, values + begin);
    for (int64_t i = begin; i < end; ++i) values[i] *= scale;
  }
}

TORCHCLIP_CLONES void round_nearest(const float* values, int64_t count, BFloat16* stored) {
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) stored[i] = store<BFloat16>(values[i]);
}

TORCHCLIP_CLONES void round_nearest(const float* values, int64_t count, Float16* stored) {
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) stored[i] = store<Float16>(values[i]);
}

TORCHCLIP_CLONES void round_stochastic(const float* values, const uint32_t* words, int shift, int64_t count,
                                       BFloat16* stored) {
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) stored[i] = stochastic(values[i], words[i] >> shift & 0xffffu);
}

TORCHCLIP_CLONES void split_all(const float* values, int64_t count, BFloat16* high, int16_t* low) {
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) {
    high[i] = upper_part(values[i]);
    low[i] = lower_part(values[i]);
  }
}

TORCHCLIP_CLONES void encode_blocks(const float* values, bool is_signed, int64_t count, uint8_t* codes, float* absmax) {
  if (is_signed) return encode<true>(values, count, codes, absmax);
  encode<false>(values, count, codes, absmax);
}

TORCHCLIP_CLONES int64_t count_zeros(const BFloat16* stored, int64_t count) { return zeros_of(stored, count); }
TORCHCLIP_CLONES int64_t count_zeros(const Float16* stored, int64_t count) { return zeros_of(stored, count); }
TORCHCLIP_CLONES int64_t count_zeros(const float* stored, int64_t count) { return zeros_of(stored, count); }

}  // namespace torchclip::cpu
