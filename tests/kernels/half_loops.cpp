// Run by test_half_loops.py: the loops of a file such as functor_avx2.cpp, which TORCHCLIP_LOOPS names, over operands
// in halves beside the one over float32 with the scalar codecs around it, and over blocks of codes, bit for bit, for
// the functor that TORCHCLIP_FUNCTOR names; and that one beside itself an element at a time, and, but for rounding,
// beside what the compiler makes of the rule. Prints what differs.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include TORCHCLIP_LOOPS
#include "cpu/loops.h"

namespace torchclip::cpu::TORCHCLIP_VECTORS {
namespace {

using Functor = TORCHCLIP_FUNCTOR;
using Random = std::mt19937;

constexpr int64_t kCounts[] = {1, 3, kVector + 1, kGroup - 1, kGroup, kGroup + 1, 1000};
constexpr unsigned kSpecials[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x7f7f, 0x7f80, 0xff80, 0x7f81, 0xffff, 0x3f80};

// Mostly ordinary numbers; `special` of a hundred are at the edges, infinite or NaN.
uint32_t drawn(Random& random, unsigned special, bool is_positive) {
  uint32_t bits = bit_cast<uint32_t>(
      std::ldexp(std::uniform_real_distribution<float>(-2, 2)(random), static_cast<int>(random() % 12) - 8));
  if (random() % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;  // half-way between two numbers in bfloat16
  if (random() % 100 < special)
    bits = kSpecials[random() % std::size(kSpecials)] << 16 | (random() % 2 ? random() >> 16 : 0);
  return is_positive ? bits & 0x7fffffffu : bits;
}

// An operand in memory, and as the loops of float32 have it.
template <class T>
struct Operand {
  std::vector<T> stored, before;
  std::vector<float> values;
  // With as many behind as a vector would write in passing.
  Operand(int64_t count, Random& random, unsigned special, bool is_positive) {
    for (int64_t i = 0; i < count + kGroup; ++i) {
      const uint32_t bits = drawn(random, special, is_positive);
      if constexpr (std::is_same_v<T, float>) stored.push_back(bit_cast<float>(bits));
      if constexpr (!std::is_same_v<T, float>) stored.push_back(static_cast<BFloat16>(bits >> 16));
      values.push_back(load(stored.back()));
    }
    before = stored;
  }
  bool is_kept_from(int64_t count) const {
    return memcmp(stored.data() + count, before.data() + count, kGroup * sizeof(T)) == 0;
  }
  // NaN in float32 may be any; in bfloat16 there is one.
  bool agrees(int64_t i) const {
    const T wanted = store<T>(values[i]);
    if constexpr (std::is_same_v<T, float>)
      if (wanted != wanted) return stored[i] != stored[i];
    return memcmp(&wanted, &stored[i], sizeof(T)) == 0;
  }
};

struct Case {
  std::string name;
  unsigned slots, special;
  int64_t count;
};

// Copies of the operands that a loop over float32 has.
struct Copies {
  std::vector<float> values[kSlow];
  Operands operands;
  explicit Copies(const Operands& from) {
    operands.count = from.count;
    for (int operand = 0; operand < kSlow; ++operand) {
      const float* const own = static_cast<const float*>(from.pointer[operand]);
      if (own != nullptr) values[operand].assign(own, own + from.count);
      operands.pointer[operand] = own == nullptr ? nullptr : values[operand].data();
    }
  }
  Operands element(int64_t i) const {
    Operands one;
    one.count = 1;
    for (int operand = 0; operand < kSlow; ++operand)
      if (operands.pointer[operand] != nullptr)
        one.pointer[operand] = static_cast<float*>(operands.pointer[operand]) + i;
    return one;
  }
};

// A sum of products may cancel.
bool is_near(float a, float b) {
  return a == b || (a != a && b != b) || std::fabs(a - b) <= 1e-4f * (1 + std::fabs(a));
}
bool is_same(float a, float b) { return (a != a && b != b) || bit_cast<uint32_t>(a) == bit_cast<uint32_t>(b); }

// Runs the loop over float32 in place, on copies element by element, and on others the one for any compiler.
template <unsigned Slots, unsigned Stages>
void run_and_compare(const Case& own, const Operands& wide, const Coefficients& coefficients) {
  const Copies plain(wide), apart(wide);
  GroupLoop<Functor, Slots, Stages, float, float>(wide, nullptr, coefficients).run(wide.count);
  update_loop<Functor, Slots, Stages, float, float>(plain.operands, coefficients);
  for (int64_t i = 0; i < wide.count; ++i)
    GroupLoop<Functor, Slots, Stages, float, float>(apart.element(i), nullptr, coefficients).run(1);
  for (int operand = 0; operand < kSlow; ++operand)
    for (size_t i = 0; i < plain.values[operand].size(); ++i) {
      const float found = static_cast<const float*>(wide.pointer[operand])[i];
      if (!is_same(found, apart.values[operand][i])) std::printf("%s: an element alone differs\n", own.name.c_str());
      if (own.special == 0 && !is_near(found, plain.values[operand][i]))
        std::printf("%s: operand %d differs from the plain loop\n", own.name.c_str(), operand);
    }
}

template <unsigned Slots, unsigned Stages, class P, class S>
void compare(const Case& own, const Coefficients& coefficients, Random& random) {
  using T = std::conditional_t<std::is_same_v<P, Split>, BFloat16, P>;
  Operand<T> parameter(own.count, random, own.special, false), gradient(own.count, random, own.special, false);
  std::vector<int16_t> remainder;
  for (int64_t i = 0; i < own.count + kGroup; ++i) {
    remainder.push_back(static_cast<int16_t>(random() % 8 == 0 ? 0x8000 : random()));
    if (std::is_same_v<P, Split>)
      parameter.values[i] = join(static_cast<BFloat16>(bit_cast<uint32_t>(parameter.values[i]) >> 16), remainder[i]);
  }
  std::vector<Operand<S>> state;
  Operands held, wide;
  held.count = wide.count = own.count;
  // The first moment alone has a sign; roots are taken of others.
  for (int slot = 0; slot < Functor::kSlots; ++slot) state.emplace_back(own.count, random, own.special, slot != 0);
  held.pointer[kParameter] = parameter.stored.data(), wide.pointer[kParameter] = parameter.values.data();
  held.pointer[kGradient] = gradient.stored.data(), wide.pointer[kGradient] = gradient.values.data();
  for (int slot = 0; slot < Functor::kSlots; ++slot) {
    if ((Slots >> slot & 1u) == 0) continue;
    held.pointer[kState0 + slot] = state[slot].stored.data();
    wide.pointer[kState0 + slot] = state[slot].values.data();
  }
  const std::vector<int16_t> remainder_before = remainder;
  const int64_t zeros = GroupLoop<Functor, Slots, Stages, P, S>(held, remainder.data(), coefficients).run(own.count);
  bool is_kept = parameter.is_kept_from(own.count) &&
                 std::equal(remainder.begin() + own.count, remainder.end(), remainder_before.begin() + own.count);
  for (const Operand<S>& each : state) is_kept &= each.is_kept_from(own.count);
  if (!is_kept) std::printf("%s: writes behind %d elements\n", own.name.c_str(), static_cast<int>(own.count));
  run_and_compare<Slots, Stages>(own, wide, coefficients);
  int64_t wanted_zeros = 0;
  for (int64_t i = 0; i < own.count; ++i) {
    bool agrees = true;
    if constexpr (std::is_same_v<P, Split>) {
      agrees =
          parameter.stored[i] == upper_part(parameter.values[i]) && remainder[i] == lower_part(parameter.values[i]);
    } else {
      agrees = parameter.agrees(i);
    }
    wanted_zeros += load(parameter.stored[i]) == 0.0f;
    for (int slot = 0; slot < Functor::kSlots; ++slot) agrees &= state[slot].agrees(i) || (Slots >> slot & 1u) == 0;
    if (agrees) continue;
    std::printf("%s: slots %u, stages %u, element %d of %d\n", own.name.c_str(), Slots, Stages, static_cast<int>(i),
                static_cast<int>(own.count));
    return;
  }
  if (Functor::kCountsZeros && zeros != wanted_zeros) std::printf("%s counts zeros\n", own.name.c_str());
}

// Codes of one slot, and the values that the loop of float32 has in their place.
template <bool is_signed>
struct Codes {
  std::vector<uint8_t> codes;
  std::vector<float> absmax, values;
  Codes(int64_t count, Random& random, unsigned special) : codes(count), absmax(count / kBlock), values(count) {
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random());
    for (float& each : absmax) each = bit_cast<float>(drawn(random, special, true));
    for (int64_t i = 0; i < count; ++i) values[i] = decode<is_signed>(codes[i], scale_of(absmax[i / kBlock]));
  }
  bool agrees(int64_t block) const {
    uint32_t bits = 0;
    const int64_t begin = block * kBlock;
    for (int64_t i = begin; i < begin + kBlock; ++i) bits = std::max(bits, bit_cast<uint32_t>(magnitude(values[i])));
    const float scale = scale_of(bit_cast<float>(bits)), inverse = inverse_of(scale);
    bool agrees = is_same(absmax[block], scale * kLastStep);
    for (int64_t i = begin; i < begin + kBlock; ++i)
      agrees &= codes[i] == (inverse == 0.0f ? 0 : encode<is_signed>(values[i], inverse));
    return agrees;
  }
};

template <unsigned Slots, unsigned Stages, class P>
void compare_blocks(const char* name, unsigned special, const Coefficients& coefficients) {
  if constexpr (Slots != 0 && !Functor::kCountsZeros) {
    using T = std::conditional_t<std::is_same_v<P, Split>, BFloat16, P>;
    Random random(2);
    for (const int64_t blocks : {1, 2, 5}) {
      const int64_t count = blocks * kBlock;
      Operand<T> parameter(count, random, special, false), gradient(count, random, special, false);
      std::vector<int16_t> remainder(count, 0);
      Codes<true> with_sign[] = {{count, random, special}, {count, random, special}, {count, random, special}};
      Codes<false> without[] = {{count, random, special}, {count, random, special}, {count, random, special}};
      Operands held, wide;
      held.count = wide.count = count;
      held.pointer[kParameter] = parameter.stored.data(), wide.pointer[kParameter] = parameter.values.data();
      held.pointer[kGradient] = gradient.stored.data(), wide.pointer[kGradient] = gradient.values.data();
      float* absmax[kMaxSlots] = {};
      for (int slot = 0; slot < Functor::kSlots; ++slot) {
        if ((Slots >> slot & 1u) == 0) continue;
        const auto point = [&](auto& own) {
          held.pointer[kState0 + slot] = own.codes.data(), wide.pointer[kState0 + slot] = own.values.data();
          absmax[slot] = own.absmax.data();
        };
        (Functor::kNonNegativeSlots >> slot & 1u) != 0 ? point(without[slot]) : point(with_sign[slot]);
      }
      update_blocks<Functor, Slots, Stages, P>(held, remainder.data(), absmax, coefficients);
      GroupLoop<Functor, Slots, Stages, float, float>(wide, nullptr, coefficients).run(count);
      bool agrees = true;
      for (int64_t i = 0; i < count; ++i)
        if constexpr (std::is_same_v<P, Split>) {
          agrees &=
              parameter.stored[i] == upper_part(parameter.values[i]) && remainder[i] == lower_part(parameter.values[i]);
        } else {
          agrees &= parameter.agrees(i);
        }
      if (!agrees) std::printf("%s: slots %u, stages %u: the parameter\n", name, Slots, Stages);
      for (int slot = 0; slot < Functor::kSlots; ++slot)
        for (int64_t block = 0; block < blocks && (Slots >> slot & 1u) != 0; ++block) {
          const bool is_signed = (Functor::kNonNegativeSlots >> slot & 1u) == 0;
          if (is_signed ? with_sign[slot].agrees(block) : without[slot].agrees(block)) continue;
          std::printf("%s: slots %u, stages %u, slot %d, block %d\n", name, Slots, Stages, slot,
                      static_cast<int>(block));
        }
    }
  }
}

template <unsigned Slots, unsigned Stages>
void compare_forms(Random& random) {
  for (const double last : {0.0, 1.0})  // of terms that a weight of 0 leaves out
    for (const unsigned special : {0u, 2u, 100u})
      for (const int64_t count : kCounts) {
        Coefficients coefficients{};
        coefficients.pipeline = {0.7, 1.0, 1.0, 0.01, 0.999};
        for (double& each : coefficients.rule) each = 0.1 + 0.8 * (random() % 1000) / 1000.0;
        coefficients.rule[kMaxCoefficients - 2 - (random() % 3)] *= last;
        coefficients.rule[3] *= last;
        const auto own = [&](const char* name) { return Case{name, Slots, special, count}; };
        compare<Slots, Stages, float, BFloat16>(own("state in bfloat16"), coefficients, random);
        compare<Slots, Stages, BFloat16, float>(own("bfloat16, state in float32"), coefficients, random);
        compare<Slots, Stages, BFloat16, BFloat16>(own("bfloat16"), coefficients, random);
        compare<Slots, Stages, Split, float>(own("split, state in float32"), coefficients, random);
        compare<Slots, Stages, Split, BFloat16>(own("split, state in bfloat16"), coefficients, random);
        compare_blocks<Slots, Stages, float>("blocks", special, coefficients);
        compare_blocks<Slots, Stages, Split>("split, blocks", special, coefficients);
      }
}

void compare_all() {
  Random random(1);
  [&]<size_t... Index>(std::index_sequence<Index...>) {
    ((compare_forms<Functor::kSlotMasks[Index], 0>(random),
      compare_forms<Functor::kSlotMasks[Index], kCoupledDecay>(random)),
     ...);
  }(std::make_index_sequence<std::size(Functor::kSlotMasks)>{});
}

}  // namespace
}  // namespace torchclip::cpu::TORCHCLIP_VECTORS

int main() {
  torchclip::cpu::TORCHCLIP_VECTORS::compare_all();
  std::puts("compared");
}
