// What a loop of a rule over vectors is given. For files that have included avx2.h or avx512.h.
#pragma once

#include <type_traits>

#include "../pipeline.h"
#include "../step/coefficients.h"
#include "half_vectors.h"

namespace torchclip::cpu::TORCHCLIP_VECTORS {

// P: of the parameter; float, BFloat16 or Split. S: of state; uint8_t for codes.
template <class Functor, class P, class S>
struct RuleOperands {
  static constexpr bool kIsSplit = std::is_same_v<P, Split>;
  using T = std::conditional_t<kIsSplit, BFloat16, P>;

  PipelineCoefficients<float> pipeline;
  typename Functor::template Coefficients<float> rule;
  T* parameter;
  int16_t* remainder;
  const T* gradient;
  S* state[Functor::kSlots];

  RuleOperands(const Operands& operands, void* remainders, const Coefficients& coefficients)
      : pipeline(narrow<float>(coefficients.pipeline)),
        rule(narrow_rule<Functor, float>(coefficients)),
        parameter(static_cast<T*>(operands.pointer[kParameter])),
        remainder(static_cast<int16_t*>(remainders)),
        gradient(static_cast<const T*>(operands.pointer[kGradient])) {
    for (int slot = 0; slot < Functor::kSlots; ++slot) state[slot] = static_cast<S*>(operands.pointer[kState0 + slot]);
  }

  // Asks for `count` elements that are needed later.
  template <unsigned Slots>
  TORCHCLIP_HD void fetch(int64_t element, int64_t count) const {
    prefetch(parameter + element, count * sizeof(T));
    prefetch(gradient + element, count * sizeof(T));
    if constexpr (kIsSplit) prefetch(remainder + element, count * sizeof(int16_t));
    for_each_slot<Slots>([&](auto slot) { prefetch(state[slot()] + element, count * sizeof(S)); });
  }
};

}  // namespace torchclip::cpu::TORCHCLIP_VECTORS
