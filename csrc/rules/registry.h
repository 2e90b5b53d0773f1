// The one place that lists the rules.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ada_breg.h"
#include "adagrad.h"
#include "adagrad_norm.h"
#include "adam.h"
#include "grda.h"
#include "lin_breg.h"
#include "lion.h"
#include "mix_clip.h"
#include "nadam.h"
#include "normalized_sgd.h"
#include "radam.h"
#include "rmsprop.h"
#include "sgd.h"

namespace torchclip {

template <class... Rule>
struct RuleList {};

using Rules = RuleList<Sgd, NormalizedSgd, MixClip, Adam, NAdam, RAdam, RMSprop, Adagrad, AdaGradNorm, Grda, Lion,
                       LinBreg, AdaBreg>;

// The one walk over the list: calls `visit(std::type_identity<Rule>{}, position)` for every rule, on either side.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class Visit, class... Rule>
TORCHCLIP_HD void for_each_rule(RuleList<Rule...>, const Visit& visit) {
  int32_t position = 0;
  (visit(std::type_identity<Rule>{}, position++), ...);
}

}  // namespace torchclip
