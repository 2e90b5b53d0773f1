// The loop of a functor's rules over float32 and bfloat16, two vectors at a time: what is loaded is widened, and what
// is stored is rounded, in registers. For files that have included avx2.h or avx512.h.
//
// A compiler that finds elements of 16 and of 32 bits in one loop spends half of the time on them. Float32 alone would
// not need this: it has the same loop so that a split parameter takes its steps to the bit.
#pragma once

#include <type_traits>

#include "../pipeline.h"
#include "../step/coefficients.h"
#include "half_vectors.h"

namespace torchclip::cpu::TORCHCLIP_VECTORS {

template <class Functor, unsigned Slots, unsigned Stages, class P, class S>
class GroupLoop {
 public:
  GroupLoop(const Operands& operands, void* remainder, const Coefficients& coefficients)
      : pipeline_(narrow<float>(coefficients.pipeline)),
        rule_(narrow_rule<Functor, float>(coefficients)),
        parameter_(static_cast<T*>(operands.pointer[kParameter])),
        remainder_(static_cast<int16_t*>(remainder)),
        gradient_(static_cast<const T*>(operands.pointer[kGradient])) {
    for (int slot = 0; slot < Functor::kSlots; ++slot) state_[slot] = static_cast<S*>(operands.pointer[kState0 + slot]);
  }

  TORCHCLIP_HD int64_t run(int64_t count) const {
    int64_t zeros = 0, done = 0;
    for (; done + kGroup <= count; done += kGroup) zeros += update_group(done);
    if constexpr (kHasParts) {
      int behind = 0;
      if (count - done > kFew) {
        try_group<true>(done, count - done, behind);
        done = count;
      }
      zeros += behind;
    }
    for (; done < count; ++done) zeros += update_element(done);
    return zeros;
  }

 private:
  static constexpr bool kIsSplit = std::is_same_v<P, Split>;
  using T = std::conditional_t<kIsSplit, BFloat16, P>;
  static constexpr bool kRounds = std::is_same_v<T, BFloat16>;
  static constexpr bool kRoundsState = std::is_same_v<S, BFloat16>;
  static constexpr Order kOrder = kRounds && (kRoundsState || Slots == 0) ? kOrderOfHalves : Order::kInTurn;
  static constexpr bool kReads = kNeedsParameter<Functor, Stages>;
  static constexpr int64_t kFew = 2;  // elements that are faster one by one
  // In elements; 0 where the processor reads as far ahead by itself, and fetching by hand takes longer.
  static constexpr int64_t kFetchedAhead = std::is_same_v<P, float> && kRoundsState && Slots != 0 ? 512 : 0;

  // Returns the zeros written.
  TORCHCLIP_HD int update_group(int64_t begin) const {
    int zeros = 0;
    if (__builtin_expect(!try_group<false>(begin, kGroup, zeros), 0)) return update_with_nan(*this, begin);
    return zeros;
  }
  // Given a copy: coefficients of which another function has the address are read again in every turn.
  static __attribute__((noinline, cold)) int update_with_nan(GroupLoop own, int64_t begin) {
    int zeros = 0;
    own.template try_group<true>(begin, kGroup, zeros);
    return zeros;
  }

  // Writes nothing and returns false where there is a NaN that is not looked for.
  template <bool kHasNaN>
  TORCHCLIP_HD bool try_group(int64_t begin, int64_t count, int& zeros) const {
    Group parameter = {0.0f, 0.0f}, gradient, state[Functor::kSlots] = {};
    if constexpr (kReads && kIsSplit) {
      join_group<kOrder, kHasNaN>(parameter_ + begin, remainder_ + begin, count, parameter);
    } else if constexpr (kReads) {
      load_group<kOrder>(parameter_ + begin, count, parameter);
    }
    load_group<kOrder>(gradient_ + begin, count, gradient);
    for_each_slot<Slots>([&](auto slot) { load_group<kOrder>(state_[slot()] + begin, count, state[slot()]); });
    if constexpr (kFetchedAhead != 0) fetch(begin + kFetchedAhead);
    for (int half = 0; half < 2; ++half) {
      FloatVector own[Functor::kSlots] = {};
      for_each_slot<Slots>([&](auto slot) { own[slot()] = state[slot()][half]; });
      parameter[half] = update<Functor, Slots, Stages>(pipeline_, rule_, parameter[half], gradient[half], Draws{}, own);
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
        [&](auto slot) { store_group<kOrder, kHasNaN>(state[slot()], count, state_[slot()] + begin); });
    if constexpr (!kRounds) {
      store_group<kOrder, kHasNaN>(parameter, count, parameter_ + begin);
      if constexpr (Functor::kCountsZeros) zeros += zeros_of(parameter, count);
    } else {
      const Halves stored = kIsSplit
                                ? split_group<kOrder, kHasNaN>(parameter, count, parameter_ + begin, remainder_ + begin)
                                : store_group<kOrder, kHasNaN>(parameter, count, parameter_ + begin);
      if constexpr (Functor::kCountsZeros) zeros += zeros_of(stored, count);
    }
    return true;
  }

  // Of a group.
  TORCHCLIP_HD void fetch(int64_t element) const {
    prefetch(parameter_ + element, kGroup * sizeof(T));
    prefetch(gradient_ + element, kGroup * sizeof(T));
    for_each_slot<Slots>([&](auto slot) { prefetch(state_[slot()] + element, kGroup * sizeof(S)); });
  }

  // One element behind the last group. Returns whether it wrote zero.
  TORCHCLIP_HD int update_element(int64_t i) const {
    using C = Fused<float>;
    C state[Functor::kSlots] = {};
    for_each_slot<Slots>([&](auto slot) { state[slot()] = load(state_[slot()][i]); });
    float before = 0.0f;
    if constexpr (kReads && kIsSplit) {
      before = join(parameter_[i], remainder_[i]);
    } else if constexpr (kReads) {
      before = load(parameter_[i]);
    }
    const float after =
        update<Functor, Slots, Stages>(pipeline_, rule_, C(before), C(load(gradient_[i])), Draws{}, state).lanes;
    for_each_slot<Slots>([&](auto slot) { state_[slot()][i] = store<S>(state[slot()].lanes); });
    if constexpr (kIsSplit) {
      parameter_[i] = upper_part(after);
      remainder_[i] = lower_part(after);
    } else {
      parameter_[i] = store<T>(after);
    }
    return Functor::kCountsZeros && load(parameter_[i]) == 0.0f ? 1 : 0;
  }

  const PipelineCoefficients<float> pipeline_;
  const typename Functor::template Coefficients<float> rule_;
  T* parameter_;
  int16_t* remainder_;
  const T* gradient_;
  S* state_[Functor::kSlots];
};

}  // namespace torchclip::cpu::TORCHCLIP_VECTORS
