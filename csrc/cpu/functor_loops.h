// The loops that a functor has of its own.
#pragma once

#include "passes.h"

namespace torchclip::cpu {

// In functor.cpp.
template <class Functor>
Loops functor_loops(const Bucket& bucket);

// Those over float32 and bfloat16 with AVX2; null for other types and processors, and where functor.cpp has faster
// ones.
struct Avx2Loops {
  UpdateLoop update = nullptr;
  SplitLoop update_split = nullptr;  // whatever the type of the bucket's parameter
};
// In functor_avx2.cpp.
template <class Functor>
Avx2Loops avx2_loops(const Bucket& bucket);
// Likewise, over state in blocks; null where a slot is held otherwise.
template <class Functor>
BlockLoop avx2_block_loop(const Bucket& bucket, const Types& types);

}  // namespace torchclip::cpu
