// The loops that a functor has of its own.
#pragma once

#include "passes.h"

namespace torchclip::cpu {

// In functor.cpp.
template <class Functor>
Loops functor_loops(const Bucket& bucket);

}  // namespace torchclip::cpu
