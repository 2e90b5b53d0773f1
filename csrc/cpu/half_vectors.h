// Two vectors of an operand between its memory and registers, without a buffer in between. For files that have included
// avx2.h or avx512.h.
//
// Values that are NaN have codes of their own, which takes as long again as the rest: `kHasNaN` says whether there may
// be one. So may remainders that make no pair with their parameter, which give a NaN where that is not looked for.
#pragma once

#include <type_traits>

#include "../codecs.h"
#include "fused.h"

namespace torchclip::cpu::TORCHCLIP_VECTORS {

constexpr int kGroup = 2 * kVector;

using Group = FloatVector[2];

struct Split {};  // a parameter in bfloat16 with its remainder beside it

// The bits of a vector's numbers, as numbers of 32 bits or of 16.
using Words = uint32_t __attribute__((vector_size(sizeof(Lanes))));
using Halves = int16_t __attribute__((vector_size(sizeof(Lanes))));

// Calls `visit` with the number of each slot in use.
template <unsigned Slots, class Visit>
TORCHCLIP_HD void for_each_slot(const Visit& visit) {
  if constexpr ((Slots & 1u) != 0) visit(std::integral_constant<int, 0>{});
  if constexpr ((Slots & 2u) != 0) visit(std::integral_constant<int, 1>{});
  if constexpr ((Slots & 4u) != 0) visit(std::integral_constant<int, 2>{});
}

template <class Vector>
TORCHCLIP_HD Vector load_vector(const void* memory) {
  Vector vector;
  memcpy(&vector, memory, sizeof(Vector));
  return vector;
}
template <class Vector>
TORCHCLIP_HD void store_vector(void* memory, Vector vector) {
  memcpy(memory, &vector, sizeof(Vector));
}
// Reads lines that are asked for later to the first-level cache. There may be nothing.
TORCHCLIP_HD void prefetch(const void* first, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t line = 0; line < bytes; line += kLine) __builtin_prefetch(static_cast<const char*>(first) + line);
}
template <class To>
TORCHCLIP_HD To bits_as(FloatVector value) {
  return bit_cast<To>(value.lanes);
}
template <class From>
TORCHCLIP_HD FloatVector of_bits(From bits) {
  return FloatVector::of(bit_cast<Lanes>(bits));
}
// Where one of the two is NaN.
TORCHCLIP_HD VectorMask are_unordered(FloatVector a, FloatVector b) { return are_unordered(a.lanes, b.lanes); }
// With the canonical NaN in place of every other.
TORCHCLIP_HD FloatVector with_one_nan(FloatVector value) {
  return select(are_unordered(value, value), bit_cast<float>(0x7fc00000u), value);
}

template <Order kOrder>
TORCHCLIP_HD void load_group(const float* memory, Group& values) {
  for (int half = 0; half < 2; ++half) values[half] = FloatVector::of(load_vector<Lanes>(memory + half * kVector));
}
template <Order kOrder>
TORCHCLIP_HD void load_group(const BFloat16* memory, Group& values) {
  Bits both[2];
  load_upper_halves<kOrder>(memory, both);
  for (int half = 0; half < 2; ++half) values[half] = of_bits(both[half]);
}

// Of a split parameter: see join().
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD void join_group(const BFloat16* high, const int16_t* low, Group& values) {
  const Halves stored = load_vector<Halves>(high), remainder = load_vector<Halves>(low);
  // A remainder below zero takes 1 from the upper half.
  Bits both[2];
  from_halves<kOrder>(bit_cast<Bits>(stored + (remainder >> 15)), bit_cast<Bits>(remainder), both);
  for (int half = 0; half < 2; ++half) values[half] = of_bits(both[half]);
  if constexpr (kHasNaN) {  // as sums of strays are
    Group alone;
    load_group<kOrder>(high, alone);
    for (int half = 0; half < 2; ++half)
      values[half] = select(are_unordered(values[half], values[half]), alone[half], values[half]);
  }
}

// Rounded to the nearest, ties to even. Returns what is stored.
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD Halves store_group(const Group& values, BFloat16* memory) {
  Bits rounded[2];
  for (int half = 0; half < 2; ++half)
    rounded[half] = rounded_to_half(bits_as<Bits>(kHasNaN ? with_one_nan(values[half]) : values[half]));
  const Halves stored = bit_cast<Halves>(upper_halves<kOrder>(rounded[0], rounded[1]));
  store_vector(memory, stored);
  return stored;
}
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD void store_group(const Group& values, float* memory) {
  for (int half = 0; half < 2; ++half) store_vector(memory + half * kVector, values[half].lanes);
}
// See upper_part() and lower_part(). Returns the upper ones.
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD Halves split_group(const Group& values, BFloat16* high, int16_t* low) {
  Bits bits[2];
  for (int half = 0; half < 2; ++half) bits[half] = bits_as<Bits>(kHasNaN ? with_one_nan(values[half]) : values[half]);
  const Halves remainder = bit_cast<Halves>(lower_halves<kOrder>(bits[0], bits[1]));
  const Halves stored = bit_cast<Halves>(upper_halves<kOrder>(bits[0], bits[1])) - (remainder >> 15);
  store_vector(low, remainder);
  store_vector(high, stored);
  return stored;
}

// Exact zeros.
TORCHCLIP_HD int zeros_of(const Group& values) {
  int zeros = 0;
  for (const FloatVector& each : values) zeros += kVector - __builtin_popcount(bits_of(differs(each.lanes, Lanes{})));
  return zeros;
}
TORCHCLIP_HD int zeros_of(Halves stored) {
  Group values;
  load_group<kOrderOfHalves>(reinterpret_cast<const BFloat16*>(&stored), values);
  return zeros_of(values);
}

}  // namespace torchclip::cpu::TORCHCLIP_VECTORS
