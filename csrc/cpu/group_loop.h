// The loop of a functor's rules over float32 and bfloat16, two vectors at a time: what is loaded is widened, and what
// is stored is rounded, in registers. For files that have included avx2.h or avx512.h.
//
// A compiler that finds elements of 16 and of 32 bits in one loop spends half of the time on them. Float32 alone would
// not need this: it has the same loop so that a split parameter takes its steps to the bit.
#pragma once

#include <type_traits>

#include "rule_operands.h"

namespace torchclip::cpu::TORCHCLIP_VECTORS {

template <class Functor, unsigned Slots, unsigned Stages, class P, class S>
class GroupLoop {
 public:
  GroupLoop(const Operands& operands, void* remainder, const Coefficients& coefficients)
      : given_(operands, remainder, coefficients) {}

  // Returns the zeros written, where the rule counts them.
  TORCHCLIP_HD int64_t run(int64_t count) const {
    int64_t zeros = 0, done = 0;
    for (; done + kGroup <= count; done += kGroup)
      if (__builtin_expect(!try_group<false>(done, kGroup, zeros), 0)) zeros += update_with_nan(*this, done);
    if constexpr (kHasParts)
      if (count - done > kFew) {
        try_group<true>(done, count - done, zeros);
        done = count;
      }
    for (; done < count; ++done) zeros += update_element(done);
    return zeros;
  }

 private:
  using Given = RuleOperands<Functor, P, S>;
  using T = typename Given::T;
  static constexpr bool kIsSplit = Given::kIsSplit;
  static constexpr bool kRounds = std::is_same_v<T, BFloat16>;
  static constexpr bool kRoundsState = std::is_same_v<S, BFloat16>;
  static constexpr Order kOrder = kRounds && (kRoundsState || Slots == 0) ? kOrderOfHalves : Order::kInTurn;
  static constexpr bool kReads = kNeedsParameter<Functor, Stages>;
  static constexpr int64_t kFew = 2;  // elements that are faster one by one
  // In elements; 0 where the processor reads as far ahead by itself, and fetching by hand takes longer.
  static constexpr int64_t kFetchedAhead = std::is_same_v<P, float> && kRoundsState && Slots != 0 ? 512 : 0;

  // Given a copy: coefficients of which another function has the address are read again in every turn.
  static __attribute__((noinline, cold)) int64_t update_with_nan(GroupLoop own, int64_t begin) {
    int64_t zeros = 0;
    own.template try_group<true>(begin, kGroup, zeros);
    return zeros;
  }

  // Writes nothing and returns false where there is a NaN that is not looked for.
  template <bool kHasNaN>
  TORCHCLIP_HD bool try_group(int64_t begin, int64_t count, int64_t& zeros) const {
    Group parameter = {0.0f, 0.0f}, gradient, state[Functor::kSlots] = {};
    if constexpr (kReads && kIsSplit) {
      join_group<kOrder, kHasNaN>(given_.parameter + begin, given_.remainder + begin, count, parameter);
    } else if constexpr (kReads) {
      load_group<kOrder>(given_.parameter + begin, count, parameter);
    }
    load_group<kOrder>(given_.gradient + begin, count, gradient);
    for_each_slot<Slots>([&](auto slot) { load_group<kOrder>(given_.state[slot()] + begin, count, state[slot()]); });
    if constexpr (kFetchedAhead != 0) given_.template fetch<Slots>(begin + kFetchedAhead, kGroup);
    for (int half = 0; half < 2; ++half) {
      FloatVector own[Functor::kSlots] = {};
      for_each_slot<Slots>([&](auto slot) { own[slot()] = state[slot()][half]; });
      parameter[half] =
          update<Functor, Slots, Stages>(given_.pipeline, given_.rule, parameter[half], gradient[half], Draws{}, own);
      for_each_slot<Slots>([&](auto slot) { state[slot()][half] = own[slot()]; });
    }
    if constexpr (!kHasNaN && (kRounds || (kRoundsState && Slots != 0))) {
      VectorMask found = {};
      if constexpr (kRounds) found = are_unordered(parameter[0], parameter[1]);
      if constexpr (kRoundsState)
        for_each_slot<Slots>([&](auto slot) { found = found | are_unordered(state[slot()][0], state[slot()][1]); });
      if (bits_of(found) != 0) return false;
    }
    for_each_slot<Slots>(
        [&](auto slot) { store_group<kOrder, kHasNaN>(state[slot()], count, given_.state[slot()] + begin); });
    if constexpr (!kRounds) {
      store_group<kOrder, kHasNaN>(parameter, count, given_.parameter + begin);
      if constexpr (Functor::kCountsZeros) zeros += zeros_of(parameter, count);
    } else {
      const Halves stored =
          kIsSplit ? split_group<kOrder, kHasNaN>(parameter, count, given_.parameter + begin, given_.remainder + begin)
                   : store_group<kOrder, kHasNaN>(parameter, count, given_.parameter + begin);
      if constexpr (Functor::kCountsZeros) zeros += zeros_of(stored, count);
    }
    return true;
  }

  // One element behind the last group. Returns whether it wrote zero.
  TORCHCLIP_HD int update_element(int64_t i) const {
    using C = Fused<float>;
    C state[Functor::kSlots] = {};
    for_each_slot<Slots>([&](auto slot) { state[slot()] = load(given_.state[slot()][i]); });
    float before = 0.0f;
    if constexpr (kReads && kIsSplit) {
      before = join(given_.parameter[i], given_.remainder[i]);
    } else if constexpr (kReads) {
      before = load(given_.parameter[i]);
    }
    const float after = update<Functor, Slots, Stages>(given_.pipeline, given_.rule, C(before),
                                                       C(load(given_.gradient[i])), Draws{}, state)
                            .lanes;
    for_each_slot<Slots>([&](auto slot) { given_.state[slot()][i] = store<S>(state[slot()].lanes); });
    if constexpr (kIsSplit) {
      given_.parameter[i] = upper_part(after);
      given_.remainder[i] = lower_part(after);
    } else {
      given_.parameter[i] = store<T>(after);
    }
    return Functor::kCountsZeros && load(given_.parameter[i]) == 0.0f ? 1 : 0;
  }

  const Given given_;
};

}  // namespace torchclip::cpu::TORCHCLIP_VECTORS
