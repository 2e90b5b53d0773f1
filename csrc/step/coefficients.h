// From coefficients in double to those of the compute type.
#pragma once

#include "tables.h"

namespace torchclip {

template <class C>
TORCHCLIP_HD PipelineCoefficients<C> narrow(const PipelineCoefficients<double>& k) {
  return {static_cast<C>(k.gradient_scale), static_cast<C>(k.value_limit), static_cast<C>(k.noise_scale),
          static_cast<C>(k.weight_decay), static_cast<C>(k.shrink)};
}

// A functor's coefficients are a struct of numbers of one type: `coefficients.rule` holds them in the order of
// declaration.
template <class Functor, class C>
TORCHCLIP_HD typename Functor::template Coefficients<C> narrow_rule(const Coefficients& coefficients) {
  using RuleCoefficients = typename Functor::template Coefficients<C>;
  constexpr int kCount = sizeof(RuleCoefficients) / sizeof(C);
  static_assert(kCount <= kMaxCoefficients);
  C values[kCount];
  for (int i = 0; i < kCount; ++i) values[i] = static_cast<C>(coefficients.rule[i]);
  RuleCoefficients result;
  memcpy(&result, values, sizeof(result));
  return result;
}

}  // namespace torchclip
