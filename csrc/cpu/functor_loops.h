// The loops that a functor has of its own.
#pragma once

#include "passes.h"

namespace torchclip::cpu {

// In functor.cpp.
template <class Functor>
Loops functor_loops(const Bucket& bucket);

// Those over operands in halves; null where there is none, or what functor.cpp has is as fast.
struct Avx2Loops {
  UpdateLoop update = nullptr;
  SplitLoop update_split = nullptr;  // whatever the type of the bucket's parameter
};
// In functor_avx2.cpp.
template <class Functor>
Avx2Loops avx2_loops(const Bucket& bucket);

}  // namespace torchclip::cpu
