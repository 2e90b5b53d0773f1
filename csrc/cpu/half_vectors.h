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
using Halves = uint16_t __attribute__((vector_size(sizeof(Lanes))));

// Calls `visit` with the number of each slot in use.
template <unsigned Slots, class Visit>
TORCHCLIP_HD void for_each_slot(const Visit& visit) {
  if constexpr ((Slots & 1u) != 0) visit(std::integral_constant<int, 0>{});
  if constexpr ((Slots & 2u) != 0) visit(std::integral_constant<int, 1>{});
  if constexpr ((Slots & 4u) != 0) visit(std::integral_constant<int, 2>{});
}

// A vector in memory; or its first bytes, and zeros behind them, where vectors are loaded in part.
template <class Vector>
TORCHCLIP_HD Vector load_vector(const void* memory, int64_t bytes = sizeof(Vector)) {
  if constexpr (kHasParts)
    if (bytes < static_cast<int64_t>(sizeof(Vector))) return load_part<Vector>(memory, bytes);
  Vector vector;
  memcpy(&vector, memory, sizeof(Vector));
  return vector;
}
template <class Vector>
TORCHCLIP_HD void store_vector(void* memory, Vector vector, int64_t bytes = sizeof(Vector)) {
  if constexpr (kHasParts)
    if (bytes < static_cast<int64_t>(sizeof(Vector))) return store_part(memory, vector, bytes);
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

// count: of elements, from 1 to kGroup; below that only where there are parts.
template <Order kOrder>
TORCHCLIP_HD void load_group(const float* memory, int64_t count, Group& values) {
  for (int half = 0; half < 2; ++half) {
    const int64_t before = half * kVector, bytes = (count - before) * static_cast<int64_t>(sizeof(float));
    values[half] = FloatVector::of(load_vector<Lanes>(memory + before, bytes));
  }
}
template <Order kOrder>
TORCHCLIP_HD void load_group(const BFloat16* memory, int64_t count, Group& values) {
  Bits both[2];
  from_halves<kOrder>(load_vector<Bits>(memory, 2 * count), Bits{}, both);
  for (int half = 0; half < 2; ++half) values[half] = of_bits(both[half]);
}

// What the upper half has too much beside a remainder below zero, 1, as -1.
TORCHCLIP_HD Halves taken_by(Halves remainder) {
  using Signed = int16_t __attribute__((vector_size(sizeof(Lanes))));
  return bit_cast<Halves>(bit_cast<Signed>(remainder) >> 15);
}
// Of a split parameter: see join().
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD void join_group(const BFloat16* high, const int16_t* low, int64_t count, Group& values) {
  const Halves stored = load_vector<Halves>(high, 2 * count), remainder = load_vector<Halves>(low, 2 * count);
  Bits both[2];
  from_halves<kOrder>(bit_cast<Bits>(stored + taken_by(remainder)), bit_cast<Bits>(remainder), both);
  for (int half = 0; half < 2; ++half) values[half] = of_bits(both[half]);
  if constexpr (kHasNaN) {  // as sums of strays are
    Group alone;
    load_group<kOrder>(high, count, alone);
    for (int half = 0; half < 2; ++half)
      values[half] = select(are_unordered(values[half], values[half]), alone[half], values[half]);
  }
}

// Rounded to the nearest, ties to even. Returns what is stored.
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD Halves store_group(const Group& values, int64_t count, BFloat16* memory) {
  Bits rounded[2];
  for (int half = 0; half < 2; ++half)
    rounded[half] = rounded_to_half(bits_as<Bits>(kHasNaN ? with_one_nan(values[half]) : values[half]));
  const Halves stored = bit_cast<Halves>(upper_halves<kOrder>(rounded[0], rounded[1]));
  store_vector(memory, stored, 2 * count);
  return stored;
}
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD void store_group(const Group& values, int64_t count, float* memory) {
  for (int half = 0; half < 2; ++half) {
    const int64_t before = half * kVector, bytes = (count - before) * static_cast<int64_t>(sizeof(float));
    store_vector(memory + before, values[half].lanes, bytes);
  }
}
// See upper_part() and lower_part(). Returns the upper ones.
template <Order kOrder, bool kHasNaN>
TORCHCLIP_HD Halves split_group(const Group& values, int64_t count, BFloat16* high, int16_t* low) {
  Bits bits[2];
  for (int half = 0; half < 2; ++half) bits[half] = bits_as<Bits>(kHasNaN ? with_one_nan(values[half]) : values[half]);
  const Halves remainder = bit_cast<Halves>(lower_halves<kOrder>(bits[0], bits[1]));
  const Halves stored = bit_cast<Halves>(upper_halves<kOrder>(bits[0], bits[1])) - taken_by(remainder);
  store_vector(low, remainder, 2 * count);
  store_vector(high, stored, 2 * count);
  return stored;
}

// Exact zeros.
TORCHCLIP_HD int zeros_of(const Group& values, int64_t count) {
  uint64_t others = 0;
  for (int half = 0; half < 2; ++half)
    others |= uint64_t{bits_of(differs(values[half].lanes, Lanes{}))} << (half * kVector);
  return static_cast<int>(count) - __builtin_popcountll(others & ((uint64_t{1} << count) - 1));
}
TORCHCLIP_HD int zeros_of(Halves stored, int64_t count) {
  Group values;
  load_group<Order::kInTurn>(reinterpret_cast<const BFloat16*>(&stored), kGroup, values);
  return zeros_of(values, count);
}

}  // namespace torchclip::cpu::TORCHCLIP_VECTORS
