// Loops over a piece of an operand between its memory and a float32 buffer in the first-level cache.
#pragma once

#include "../codecs.h"

namespace torchclip::cpu {

// values: [count], float32 of what is stored.
void widen(const BFloat16* stored, int64_t count, float* values);
void widen(const Float16* stored, int64_t count, float* values);
void join_all(const BFloat16* high, const int16_t* low, int64_t count, float* values);
// absmax: [blocks]; the first element begins a block.
void decode_blocks(const uint8_t* codes, const float* absmax, bool is_signed, int64_t count, float* values);

void round_nearest(const float* values, int64_t count, BFloat16* stored);
void round_nearest(const float* values, int64_t count, Float16* stored);
// words: [count], of which the bits from `shift` on are taken, 16 of each.
void round_stochastic(const float* values, const uint32_t* words, int shift, int64_t count, BFloat16* stored);
void split_all(const float* values, int64_t count, BFloat16* high, int16_t* low);
void encode_blocks(const float* values, bool is_signed, int64_t count, uint8_t* codes, float* absmax);

int64_t count_zeros(const BFloat16* stored, int64_t count);
int64_t count_zeros(const Float16* stored, int64_t count);
int64_t count_zeros(const float* stored, int64_t count);

}  // namespace torchclip::cpu
