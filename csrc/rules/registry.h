// The one place that lists the rules, and the distinct functors behind them: a pass is compiled once per functor.
#pragma once

#include "adam.h"
#include "grda.h"
#include "mix_clip.h"
#include "momentum.h"
#include "normalized_sgd.h"
#include "sgd.h"

namespace torchclip {

template <class... Types>
struct TypeList {};

using Rules = TypeList<Sgd, NormalizedSgd, MixClip, Adam, Grda>;
using Functors = TypeList<Momentum, SecondMoment, SoftThreshold>;

}  // namespace torchclip
