#include "codec_loops.h"

#include "clones.h"

namespace torchclip::cpu {
namespace {

template <class T>
__attribute__((always_inline)) inline int64_t zeros_of(const T* stored, int64_t count) {
  int64_t zeros = 0;
  for (int64_t i = 0; i < count; ++i) zeros += load(stored[i]) == 0.0f;
  return zeros;
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

TORCHCLIP_CLONES int64_t count_zeros(const BFloat16* stored, int64_t count) { return zeros_of(stored, count); }
TORCHCLIP_CLONES int64_t count_zeros(const Float16* stored, int64_t count) { return zeros_of(stored, count); }
TORCHCLIP_CLONES int64_t count_zeros(const float* stored, int64_t count) { return zeros_of(stored, count); }

}  // namespace torchclip::cpu
