// The loops over vectors of one functor. For files that have included avx2.h or avx512.h.
#pragma once

#include "../rules/registry.h"
#include "block_loop.h"
#include "functor_loops.h"
#include "group_loop.h"

namespace torchclip::cpu {
namespace TORCHCLIP_VECTORS {

template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
int64_t update_held(const Operands& operands, const Coefficients& coefficients) {
  return GroupLoop<Functor, Slots, Stages, T, S>(operands, nullptr, coefficients).run(operands.count);
}

template <class Functor, unsigned Slots, unsigned Stages, class S>
int64_t update_split(const Operands& operands, void* remainder, const Coefficients& coefficients) {
  return GroupLoop<Functor, Slots, Stages, Split, S>(operands, remainder, coefficients).run(operands.count);
}

template <class Functor, unsigned Slots, unsigned Stages>
VectorLoops loops_of(const Bucket& bucket) {
  const bool rounds = bucket.parameter_dtype == DType::kBFloat16;
  if (bucket.state_dtype == DType::kBFloat16)
    return {rounds ? update_held<Functor, Slots, Stages, BFloat16, BFloat16>
                   : update_held<Functor, Slots, Stages, float, BFloat16>,
            update_split<Functor, Slots, Stages, BFloat16>};
  return {
      rounds ? update_held<Functor, Slots, Stages, BFloat16, float> : update_held<Functor, Slots, Stages, float, float>,
      update_split<Functor, Slots, Stages, float>};
}

template <class Functor, unsigned Slots, unsigned Stages, class P>
void update_blocks(const Operands& operands, void* remainder, float* const* absmax, const Coefficients& coefficients) {
  GroupsOfBlocks<Functor, Slots, Stages, P>(operands, remainder, absmax, coefficients).run(operands.count / kBlock);
}

template <class Functor, unsigned Slots, unsigned Stages>
BlockLoop block_loop_of(bool is_split) {
  if constexpr (Slots == 0) return nullptr;
  return is_split ? update_blocks<Functor, Slots, Stages, Split> : update_blocks<Functor, Slots, Stages, float>;
}

}  // namespace TORCHCLIP_VECTORS

template <class Functor, class Set>
VectorLoops vector_loops(const Bucket& bucket) {
  static_assert(std::is_same_v<Set, TORCHCLIP_VECTORS::Set>);
  VectorLoops loops;
  const auto is_served = [](DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kBFloat16; };
  if (!is_served(bucket.parameter_dtype) || !is_served(bucket.state_dtype)) return loops;
  visit_bucket<Functor>(bucket, [&](auto slots, auto stages) {
    loops = TORCHCLIP_VECTORS::loops_of<Functor, slots(), stages()>(bucket);
  });
  return loops;
}

template <class Functor, class Set>
BlockLoop vector_block_loop(const Bucket& bucket, const Types& types) {
  static_assert(std::is_same_v<Set, TORCHCLIP_VECTORS::Set>);
  const bool is_split = types.parameter.form == Form::kSplit && types.gradient == DType::kBFloat16;
  const bool is_float32 = types.parameter.form == Form::kNearest && types.parameter.dtype == DType::kFloat32 &&
                          types.gradient == DType::kFloat32;
  BlockLoop loop = nullptr;
  if constexpr (!Functor::kCountsZeros) {
    bool is_served = is_split || is_float32;
    for (int slot = 0; slot < Functor::kSlots; ++slot) {
      const bool is_signed = (Functor::kNonNegativeSlots >> slot & 1u) == 0;
      const Form wanted = is_signed ? Form::kBlocks : Form::kUnsignedBlocks;
      is_served = is_served && ((bucket.slots >> slot & 1u) == 0 || types.slots[slot].form == wanted);
    }
    if (is_served)
      visit_bucket<Functor>(bucket, [&](auto slots, auto stages) {
        loop = TORCHCLIP_VECTORS::block_loop_of<Functor, slots(), stages()>(is_split);
      });
  }
  return loop;
}

template VectorLoops vector_loops<TORCHCLIP_FUNCTOR, TORCHCLIP_VECTORS::Set>(const Bucket&);
template BlockLoop vector_block_loop<TORCHCLIP_FUNCTOR, TORCHCLIP_VECTORS::Set>(const Bucket&, const Types&);

}  // namespace torchclip::cpu
