// The loop of a functor's rules over state in blocks of 8-bit codes. The codes of a block are made while the next one
// is updated, once its largest magnitude is known: the processor divides and takes roots in the one while it works on
// bits in the other. For files that have included avx2.h or avx512.h.
#pragma once

#include <type_traits>
#include <utility>

#include "code_vectors.h"
#include "rule_operands.h"

namespace torchclip::cpu::TORCHCLIP_VECTORS {

// P: float, or Split. The arguments are those of a BlockLoop.
template <class Functor, unsigned Slots, unsigned Stages, class P>
class GroupsOfBlocks {
 public:
  GroupsOfBlocks(const Operands& operands, void* remainder, float* const* absmax, const Coefficients& coefficients)
      : given_(operands, remainder, coefficients) {
    for (int slot = 0; slot < Functor::kSlots; ++slot) absmax_[slot] = absmax[slot];
  }

  // blocks: at least one.
  TORCHCLIP_HD void run(int64_t blocks) const {
    Block first, second;
    Block *now = &first, *before = &second;
    for (int64_t block = 0; block <= blocks; ++block, std::swap(now, before)) {
      if (block == 0) {
        turn<true, false>(block, *now, *before);
      } else if (block < blocks) {
        turn<true, true>(block, *now, *before);
      } else {
        turn<false, true>(block, *now, *before);
      }
    }
  }

 private:
  // Elements that are updated, and encoded, by turns.
  static constexpr int64_t kTogether = 32;
  static_assert(kTogether % kGroup == 0 && kTogether % kCodesTogether == 0 && kBlock % kTogether == 0);
  // In elements. So much work for a byte keeps the processor from reading ahead far enough by itself.
  static constexpr int64_t kFetchedAhead = 3 * kBlock;

  // New state.
  struct Block {
    alignas(64) float values[Functor::kSlots][kBlock];
    float inverse[Functor::kSlots];
  };
  static constexpr bool is_signed(int slot) { return (Functor::kNonNegativeSlots >> slot & 1u) == 0; }

  // Updates a block, and encodes the one before.
  template <bool kUpdates, bool kEncodes>
  TORCHCLIP_HD void turn(int64_t block, Block& now, const Block& before) const {
    FloatVector scale[Functor::kSlots] = {}, inverse[Functor::kSlots] = {};
    Words largest[Functor::kSlots] = {};
    for_each_slot<Slots>([&](auto slot) {
      if constexpr (kUpdates) scale[slot()] = scale_of(absmax_[slot()][block]);
      if constexpr (kEncodes) inverse[slot()] = before.inverse[slot()];
    });
    for (int64_t i = 0; i < kBlock; i += kTogether) {
      if constexpr (kUpdates) {
        given_.template fetch<Slots>(block * kBlock + i + kFetchedAhead, kTogether);
        for (int64_t own = i; own < i + kTogether; own += kGroup)
          update_group(block * kBlock, own, scale, now, largest);
      }
      if constexpr (kEncodes)
        for_each_slot<Slots>([&](auto slot) {
          for (int64_t own = i; own < i + kTogether; own += kCodesTogether)
            encode_codes<is_signed(slot())>(before.values[slot()] + own, inverse[slot()],
                                            given_.state[slot()] + (block - 1) * kBlock + own);
        });
    }
    if constexpr (kEncodes)
      for_each_slot<Slots>([&](auto slot) {
        if (before.inverse[slot()] == 0.0f) memset(given_.state[slot()] + (block - 1) * kBlock, 0, kBlock);
      });
    if constexpr (kUpdates)
      for_each_slot<Slots>([&](auto slot) {
        const float own = scale_of(largest_of(largest[slot()]));
        absmax_[slot()][block] = own * kLastStep;
        now.inverse[slot()] = inverse_of(own);
      });
  }

  TORCHCLIP_HD void update_group(int64_t begin, int64_t i, const FloatVector (&scale)[Functor::kSlots], Block& now,
                                 Words (&largest)[Functor::kSlots]) const {
    constexpr Order kOrder = Order::kInTurn;
    Group parameter = {0.0f, 0.0f}, gradient;
    const int64_t first = begin + i;
    if constexpr (std::is_same_v<P, Split>) {
      join_group<kOrder, true>(given_.parameter + first, given_.remainder + first, kGroup, parameter);
    } else if constexpr (kNeedsParameter<Functor, Stages>) {
      load_group<kOrder>(given_.parameter + first, kGroup, parameter);
    }
    load_group<kOrder>(given_.gradient + first, kGroup, gradient);
    for (int half = 0; half < 2; ++half) {
      const int64_t own = i + half * kVector;
      FloatVector state[Functor::kSlots] = {};
      for_each_slot<Slots>([&](auto slot) {
        state[slot()] = decode_codes<is_signed(slot())>(given_.state[slot()] + begin + own, scale[slot()]);
      });
      parameter[half] =
          update<Functor, Slots, Stages>(given_.pipeline, given_.rule, parameter[half], gradient[half], Draws{}, state);
      for_each_slot<Slots>([&](auto slot) {
        store_vector(now.values[slot()] + own, state[slot()].lanes);
        largest[slot()] = larger_bits(largest[slot()], state[slot()]);
      });
    }
    if constexpr (std::is_same_v<P, Split>) {
      split_group<kOrder, true>(parameter, kGroup, given_.parameter + first, given_.remainder + first);
    } else {
      store_group<kOrder, true>(parameter, kGroup, given_.parameter + first);
    }
  }

  const RuleOperands<Functor, P, uint8_t> given_;
  float* absmax_[Functor::kSlots];
};

}  // namespace torchclip::cpu::TORCHCLIP_VECTORS
