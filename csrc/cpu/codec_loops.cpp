#include "codec_loops.h"

#include <algorithm>

#include "clones.h"

namespace torchclip::cpu {
namespace {

template <class T>
__attribute__((always_inline)) inline int64_t zeros_of(const T* stored, int64_t count) {
  int64_t zeros = 0;
  for (int64_t i = 0; i < count; ++i) zeros += load(stored[i]) == 0.0f;
  return zeros;
}

// The largest magnitude; NaN where there is one, whose bits are larger than those of any number.
TORCHCLIP_CLONES float largest(const float* values, int64_t count) {
  uint32_t bits = 0;
  for (int64_t i = 0; i < count; ++i) bits = std::max(bits, bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  return bit_cast<float>(bits);
}

template <bool is_signed>
TORCHCLIP_CLONES void decode_block(const uint8_t* codes, float scale, int64_t count, float* values) {
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) values[i] = decode<is_signed>(codes[i], scale);
}

template <bool is_signed>
TORCHCLIP_CLONES void encode_block(const float* values, float inverse, int64_t count, uint8_t* codes) {
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) codes[i] = encode<is_signed>(values[i], inverse);
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

void decode_blocks(const uint8_t* codes, const float* absmax, bool is_signed, int64_t count, float* values) {
  for (int64_t begin = 0; begin < count; begin += kBlock)
    (is_signed ? decode_block<true> : decode_block<false>)(codes + begin, scale_of(absmax[begin / kBlock]),
                                                           std::min(kBlock, count - begin), values + begin);
}

void encode_blocks(const float* values, bool is_signed, int64_t count, uint8_t* codes, float* absmax) {
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t own = std::min(kBlock, count - begin);
    const float scale = scale_of(largest(values + begin, own)), inverse = inverse_of(scale);
    absmax[begin / kBlock] = scale * kLastStep;
    if (inverse == 0.0f) {
      std::fill_n(codes + begin, own, uint8_t{0});
    } else {
      (is_signed ? encode_block<true> : encode_block<false>)(values + begin, inverse, own, codes + begin);
    }
  }
}

TORCHCLIP_CLONES int64_t count_zeros(const BFloat16* stored, int64_t count) { return zeros_of(stored, count); }
TORCHCLIP_CLONES int64_t count_zeros(const Float16* stored, int64_t count) { return zeros_of(stored, count); }
TORCHCLIP_CLONES int64_t count_zeros(const float* stored, int64_t count) { return zeros_of(stored, count); }

}  // namespace torchclip::cpu
