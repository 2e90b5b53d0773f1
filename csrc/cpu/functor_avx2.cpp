// The loops of one functor's rules over float32 and bfloat16 with AVX2, sixteen elements at a time: what is loaded is
// widened, and what is stored is rounded, in registers. Compiled once for each functor: the build names it in
// TORCHCLIP_FUNCTOR.
//
// A compiler that finds elements of 16 and of 32 bits in one loop spends half of the time on them. With 512-bit vectors
// it does not, and its own loops are taken where it has them. Float32 alone would not need this: it has the same loop
// so that a split parameter takes its steps to the bit.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Everything below, of which nothing must be left to share with other files.
#pragma GCC optimize("fp-contract=off")  // see Product
#if __GNUC__ >= 12
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx2")
#endif
#include "x86.h"
#endif

#include "functor_loops.h"

#if defined(TORCHCLIP_X86)

#include "../rules/registry.h"
#include "../step/coefficients.h"
#include "block_loop.h"

namespace torchclip::cpu {
namespace {

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
    for (; done < count; ++done) zeros += update_element(done);
    return zeros;
  }

 private:
  static constexpr bool kIsSplit = std::is_same_v<P, Split>;
  using T = std::conditional_t<kIsSplit, BFloat16, P>;
  static constexpr bool kRounds = std::is_same_v<T, BFloat16>;
  static constexpr bool kRoundsState = std::is_same_v<S, BFloat16>;
  static constexpr Order kOrder = kRounds && (kRoundsState || Slots == 0) ? Order::kEvenOdd : Order::kInTurn;
  static constexpr bool kReads = kNeedsParameter<Functor, Stages>;

  // Returns the zeros written.
  TORCHCLIP_HD int update_group(int64_t begin) const {
    int zeros = 0;
    if (__builtin_expect(!try_group<false>(begin, zeros), 0)) return update_with_nan(*this, begin);
    return zeros;
  }
  // Given a copy: coefficients of which another function has the address are read again in every turn.
  static __attribute__((noinline, cold)) int update_with_nan(GroupLoop own, int64_t begin) {
    int zeros = 0;
    own.template try_group<true>(begin, zeros);
    return zeros;
  }

  // Writes nothing and returns false where there is a NaN that is not looked for.
  template <bool kHasNaN>
  TORCHCLIP_HD bool try_group(int64_t begin, int& zeros) const {
    Group parameter = {0.0f, 0.0f}, gradient, state[Functor::kSlots] = {};
    if constexpr (kReads && kIsSplit) {
      join_group<kOrder, kHasNaN>(parameter_ + begin, remainder_ + begin, parameter);
    } else if constexpr (kReads) {
      load_group<kOrder>(parameter_ + begin, parameter);
    }
    load_group<kOrder>(gradient_ + begin, gradient);
    for_each_slot<Slots>([&](auto slot) { load_group<kOrder>(state_[slot()] + begin, state[slot()]); });
    for (int half = 0; half < 2; ++half) {
      FloatVector own[Functor::kSlots] = {};
      for_each_slot<Slots>([&](auto slot) { own[slot()] = state[slot()][half]; });
      parameter[half] = update<Functor, Slots, Stages>(pipeline_, rule_, parameter[half], gradient[half], Draws{}, own);
      for_each_slot<Slots>([&](auto slot) { state[slot()][half] = own[slot()]; });
    }
    if constexpr (!kHasNaN && (kRounds || (kRoundsState && Slots != 0))) {
      VectorMask found = {_mm256_setzero_ps()};
      if constexpr (kRounds) found = are_unordered(parameter[0], parameter[1]);
      if constexpr (kRoundsState)
        for_each_slot<Slots>([&](auto slot) { found = found | are_unordered(state[slot()][0], state[slot()][1]); });
      if (_mm256_movemask_ps(found.lanes) != 0) return false;
    }
    for_each_slot<Slots>([&](auto slot) { store_group<kOrder, kHasNaN>(state[slot()], state_[slot()] + begin); });
    if constexpr (!kRounds) {
      store_group<kOrder, kHasNaN>(parameter, parameter_ + begin);
      if constexpr (Functor::kCountsZeros) zeros += zeros_of(parameter);
    } else {
      const __m256i stored = kIsSplit ? split_group<kOrder, kHasNaN>(parameter, parameter_ + begin, remainder_ + begin)
                                      : store_group<kOrder, kHasNaN>(parameter, parameter_ + begin);
      if constexpr (Functor::kCountsZeros) zeros += zeros_of(stored);
    }
    return true;
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

template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
int64_t update_held(const Operands& operands, const Coefficients& coefficients) {
  return GroupLoop<Functor, Slots, Stages, T, S>(operands, nullptr, coefficients).run(operands.count);
}

template <class Functor, unsigned Slots, unsigned Stages, class S>
int64_t update_split(const Operands& operands, void* remainder, const Coefficients& coefficients) {
  return GroupLoop<Functor, Slots, Stages, Split, S>(operands, remainder, coefficients).run(operands.count);
}

template <class Functor, unsigned Slots, unsigned Stages>
Avx2Loops loops_of(const Bucket& bucket) {
  const bool rounds = bucket.parameter_dtype == DType::kBFloat16;
  if (bucket.state_dtype == DType::kBFloat16)
    return {rounds ? update_held<Functor, Slots, Stages, BFloat16, BFloat16>
                   : update_held<Functor, Slots, Stages, float, BFloat16>,
            update_split<Functor, Slots, Stages, BFloat16>};
  return {
      rounds ? update_held<Functor, Slots, Stages, BFloat16, float> : update_held<Functor, Slots, Stages, float, float>,
      update_split<Functor, Slots, Stages, float>};
}

template <class Functor, unsigned Slots, unsigned Stages, class P>
void update_blocks(const Operands& operands, void* remainder, float* const* absmax, const Coefficients& coefficients) {
  GroupsOfBlocks<Functor, Slots, Stages, P>(operands, remainder, absmax, coefficients).run(operands.count / kBlock);
}

template <class Functor, unsigned Slots, unsigned Stages>
BlockLoop block_loop_of(bool is_split) {
  if constexpr (Slots == 0) return nullptr;
  return is_split ? update_blocks<Functor, Slots, Stages, Split> : update_blocks<Functor, Slots, Stages, float>;
}

}  // namespace

template <class Functor>
Avx2Loops avx2_loops(const Bucket& bucket) {
  Avx2Loops loops;
  const auto is_served = [](DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kBFloat16; };
  if (!is_served(bucket.parameter_dtype) || !is_served(bucket.state_dtype)) return loops;
  if (!runs_avx2() || runs_avx512()) return loops;
  visit_bucket<Functor>(bucket, [&](auto slots, auto stages) { loops = loops_of<Functor, slots(), stages()>(bucket); });
  return loops;
}

template <class Functor>
BlockLoop avx2_block_loop(const Bucket& bucket, const Types& types) {
  const bool is_split = types.parameter.form == Form::kSplit && types.gradient == DType::kBFloat16;
  const bool is_float32 = types.parameter == Codec{} && types.gradient == DType::kFloat32;
  BlockLoop loop = nullptr;
  if constexpr (!Functor::kCountsZeros) {
    bool is_served = runs_avx2() && (is_split || is_float32);
    for (int slot = 0; slot < Functor::kSlots; ++slot) {
      const bool is_signed = (Functor::kNonNegativeSlots >> slot & 1u) == 0;
      const Form wanted = is_signed ? Form::kBlocks : Form::kUnsignedBlocks;
      is_served = is_served && ((bucket.slots >> slot & 1u) == 0 || types.slots[slot].form == wanted);
    }
    if (is_served)
      visit_bucket<Functor>(
          bucket, [&](auto slots, auto stages) { loop = block_loop_of<Functor, slots(), stages()>(is_split); });
  }
  return loop;
}

template Avx2Loops avx2_loops<TORCHCLIP_FUNCTOR>(const Bucket&);
template BlockLoop avx2_block_loop<TORCHCLIP_FUNCTOR>(const Bucket&, const Types&);

}  // namespace torchclip::cpu

#else

#include "../rules/registry.h"

namespace torchclip::cpu {

template <class Functor>
Avx2Loops avx2_loops(const Bucket&) {
  return {};
}
template Avx2Loops avx2_loops<TORCHCLIP_FUNCTOR>(const Bucket&);

template <class Functor>
BlockLoop avx2_block_loop(const Bucket&, const Types&) {
  return nullptr;
}
template BlockLoop avx2_block_loop<TORCHCLIP_FUNCTOR>(const Bucket&, const Types&);

}  // namespace torchclip::cpu

#endif
