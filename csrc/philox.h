// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as
// 1, 2, 3", SC 2011, section 3.3. A draw depends on nothing but the key and the counter, so it is the same on every
// backend and for every launch geometry.
#pragma once

#include "scalar_ops.h"

namespace torchclip {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

struct Counter {
  uint32_t word[4];
};

TORCHCLIP_HD Counter philox4x32(uint64_t seed, Counter counter) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kPhiloxMultiplier0) * counter.word[0];
    const uint64_t product1 = static_cast<uint64_t>(kPhiloxMultiplier1) * counter.word[2];
    counter =
        Counter{{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
                 static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return counter;
}

// What a draw is for: the last word of its counter.
enum Stream : uint32_t { kNoiseStream, kGradientDropoutStream, kLRDropoutStream };

// The counter behind elements 4 quad to 4 quad + 3 of a parameter, whose words are the four of the draw. `step` counts
// from 1, `parameter` is the position among all parameters, elements are numbered in the parameter's own memory order.
TORCHCLIP_HD Counter draw_counter(uint32_t step, uint32_t parameter, uint64_t quad, Stream stream) {
  const uint32_t high = static_cast<uint32_t>(quad >> 32) << 8;
  return Counter{{step, parameter, static_cast<uint32_t>(quad), stream + high}};
}

}  // namespace torchclip
