// What every rule header shares. A functor is the arithmetic of one element, which several rules may have in common and
// which the passes are compiled for, with
//
//     kSlots, kSlotMasks (of slots in use, those that it is compiled for), kNonNegativeSlots (a mask), kReadsParameter,
//     kCountsZeros, kMeasuresDirection (then with what Momentum has besides), Coefficients<C>
//     step<Slots>(coefficients, parameter, gradient, state) -> the new parameter, with the new state in `state`, which
//         held the old one
//
// A rule is a struct with
//
//     kName, Functor, kClipsItself, kSumsNorms, kScalars, Hyperparameters (lr first)
//     slots(hyperparameters)      -> the mask of state slots that a param group needs
//     coefficients(hyperparameters, scalars, first, norms) -> Functor::Coefficients<double>
//
// The names of hyperparameters, slots and numbers of state are in torchclip/rules, in the order that they have here.
// `scalars` are the numbers of state before the step, scalars[0] the steps taken; coefficients() moves them on. `first`
// says that the state was made in this step. `norms` is used by the rules that clip themselves alone; kSumsNorms says
// that their squares are summed over all steps, which the plan does. A rule whose first step is another one says so in
// first_differs(hyperparameters), and one whose hyperparameters may contradict one another in
// conflicts(hyperparameters).
#pragma once

#include "../scalar_ops.h"

namespace torchclip {

// L2 norms over the rule's scope, of the gradient as the rule sees it and of the direction that it measures.
struct DirectionNorms {
  double gradient = 0;
  double direction = 0;
  double root_factor = 1;  // 1 / sqrt(sum of the squared norms of all steps), for rules that sum norms
};

}  // namespace torchclip
