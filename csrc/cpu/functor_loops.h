// The loops that a functor has of its own.
#pragma once

#include <iterator>
#include <type_traits>
#include <utility>

#include "../pipeline.h"
#include "passes.h"

namespace torchclip::cpu {

// Calls `visit` with the slots of a bucket, and with the stage that the rule's loop is compiled for, as constants.
template <class Functor, class Visit>
void visit_bucket(const Bucket& bucket, const Visit& visit) {
  const auto visit_stages = [&](auto slots) {
    if ((bucket.stages & kCoupledDecay) != 0) return visit(slots, std::integral_constant<unsigned, kCoupledDecay>{});
    visit(slots, std::integral_constant<unsigned, 0>{});
  };
  [&]<size_t... Index>(std::index_sequence<Index...>) {
    ((bucket.slots != Functor::kSlotMasks[Index]
          ? void()
          : visit_stages(std::integral_constant<unsigned, Functor::kSlotMasks[Index]>{})),
     ...);
  }(std::make_index_sequence<std::size(Functor::kSlotMasks)>{});
}

// In functor.cpp.
template <class Functor>
Loops functor_loops(const Bucket& bucket);

// Those over vectors of float32 and bfloat16; null for other types.
struct VectorLoops {
  UpdateLoop update = nullptr;
  SplitLoop update_split = nullptr;  // whatever the type of the bucket's parameter
};
// Sets of instructions.
struct Avx2 {};
struct Avx512 {};
// In functor_avx2.cpp and functor_avx512.cpp.
template <class Functor, class Set>
VectorLoops vector_loops(const Bucket& bucket);
// Likewise, over state in blocks; null where a slot is held otherwise.
template <class Functor, class Set>
BlockLoop vector_block_loop(const Bucket& bucket, const Types& types);

}  // namespace torchclip::cpu
