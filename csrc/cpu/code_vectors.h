// 8-bit codes between memory and a vector: encode() and decode() of codecs.h. For files that have included avx2.h or
// avx512.h.
#pragma once

#include "half_vectors.h"

namespace torchclip::cpu::TORCHCLIP_VECTORS {

constexpr int kCodesTogether = kVectorsOfBytes * kVector;  // that are written at once

// Of bits whose lower halves are 0, less as many; 0 in place of less than 0.
TORCHCLIP_HD Words without(Words bits, uint32_t offset) {
  return bit_cast<Words>(subtract_halves(bit_cast<Bits>(bits), bit_cast<Bits>(Words{} + offset)));
}

template <bool is_signed>
TORCHCLIP_HD FloatVector decode_codes(const uint8_t* codes, FloatVector scale) {
  using Map = RootMap<is_signed>;
  // Steps have their bits in the upper half, so that a subtraction of halves, which stops at 0, makes 0 of 0.
  constexpr uint32_t kOffset = Map::kOffset + (static_cast<uint32_t>(Map::kStepBits) << 23);
  static_assert(kOffset << 16 == 0 && kOffset < 1u << 31);
  const Lanes step = load_bytes<is_signed>(codes);
  const Words bits = bit_cast<Words>(step);
  if constexpr (!is_signed) return of_bits(without(bits, kOffset) << Map::kHalvings) * scale;
  static_assert(!is_signed || Map::kHalvings == 1);  // shifts the sign out
  return with_sign_of(of_bits(without(bits << 1, kOffset << 1)) * scale, FloatVector::of(step));
}

// Their lowest bytes are codes. inverse: not 0.
template <bool is_signed>
TORCHCLIP_HD Bits encoded(const float* values, FloatVector inverse) {
  using Map = RootMap<is_signed>;
  using Ints = int32_t __attribute__((vector_size(sizeof(Lanes))));
  const FloatVector value = FloatVector::of(load_vector<Lanes>(values));
  const FloatVector power = value * inverse;
  FloatVector root;
  if constexpr (is_signed) {
    // The sign comes along, and once more in the bit behind it, which is 0 of roots: they are below 2.
    root = of_bits(((bits_as<Ints>(power) >> Map::kHalvings) + static_cast<int32_t>(Map::kOffset)) & ~(1 << 30));
  } else {
    root = of_bits((bits_as<Words>(power) >> Map::kHalvings) + Map::kOffset);
    const Lanes size = larger_lanes(root.lanes, broadcast(Map::kStep, Lanes{}));
    root = FloatVector::of(kept_above_zero(size, value.lanes));
  }
  return bits_as<Bits>(root + FloatVector(Map::kRounder));
}

// The codes of kCodesTogether values.
template <bool is_signed>
TORCHCLIP_HD void encode_codes(const float* values, FloatVector inverse, uint8_t* codes) {
  Bits words[kVectorsOfBytes];
  for (int i = 0; i < kVectorsOfBytes; ++i) words[i] = encoded<is_signed>(values + i * kVector, inverse);
  const auto bytes = lowest_bytes(words);
  memcpy(codes, &bytes, sizeof(bytes));
}

// The largest magnitude of a block so far, by its bits.
TORCHCLIP_HD Words larger_bits(Words largest, FloatVector value) {
  const Words bits = bits_as<Words>(magnitude(value));
  return bits > largest ? bits : largest;
}
TORCHCLIP_HD float largest_of(Words bits) {
  uint32_t largest = 0;
  for (int i = 0; i < kVector; ++i) largest = bits[i] > largest ? bits[i] : largest;
  return bit_cast<float>(largest);
}

}  // namespace torchclip::cpu::TORCHCLIP_VECTORS
