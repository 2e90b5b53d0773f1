// The one place that lists the rules, and the distinct functors behind them: a pass is compiled once per functor.
#pragma once

#include "adagrad.h"
#include "adagrad_norm.h"
#include "adam.h"
#include "grda.h"
#include "mix_clip.h"
#include "nadam.h"
#include "normalized_sgd.h"
#include "radam.h"
#include "rmsprop.h"
#include "sgd.h"

namespace torchclip {

template <class... Types>
struct TypeList {};

using Rules = TypeList<Sgd, NormalizedSgd, MixClip, Adam, NAdam, RAdam, RMSprop, Adagrad, AdaGradNorm, Grda>;

}  // namespace torchclip
