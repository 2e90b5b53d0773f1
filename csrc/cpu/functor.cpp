// The loops of one functor's rules, compiled once for each functor: the build names it in TORCHCLIP_FUNCTOR.
#include "../dtypes.h"
#include "functor_loops.h"
#include "loops.h"

namespace torchclip::cpu {
namespace {

// The pairs of parameter and state, and one that precision policies alone ask for: float32 with state in bfloat16. What
// else they ask for is decoded around the loops of float32.
template <class Visitor>
void visit_pairs(const Bucket& bucket, const Visitor& visit) {
  if (bucket.parameter_dtype == DType::kFloat32 && bucket.state_dtype == DType::kBFloat16)
    return visit(Type<float>{}, Type<BFloat16>{});
  visit_dtypes(bucket.parameter_dtype, bucket.state_dtype, visit);
}

// Where there are clones, vector_loops() has these types for all processors but the least.
template <class... Each>
constexpr bool are_in_vectors = ((std::is_same_v<Each, float> || std::is_same_v<Each, BFloat16>) && ...);

// The stages around the rule have loops of their own; of the rule's loops coupled decay alone asks for two versions.
template <class Functor, unsigned Slots, unsigned Decay>
Loops loops_for_dtypes(const Bucket& bucket) {
  Loops loops;
  visit_pairs(bucket, [&](auto parameter, auto state) {
    using T = typename decltype(parameter)::type;
    using S = typename decltype(state)::type;
    using C = ComputeType<T>;
    if constexpr (are_in_vectors<T, S>) {
      loops.update = update_elements<Functor, Slots, Decay, T, S>;
    } else {
      loops.update = update_loop<Functor, Slots, Decay, T, S>;
    }
    loops.update_pieces = update_pieces_loop<Functor, Slots, Decay, T, S>;
    loops.writes_only = !kNeedsParameter<Functor, Decay>;
    if constexpr (Functor::kMeasuresDirection) {
      loops.norm[static_cast<int>(Measure::kDirection)] = direction_norm_loop<Functor, Slots, Decay, T, S, T>;
      loops.direction_prepared = direction_norm_loop<Functor, Slots, Decay, T, S, C>;
      loops.step_coefficients = Functor::kStepCoefficients;
    }
  });
  return loops;
}

}  // namespace

template <class Functor>
Loops functor_loops(const Bucket& bucket) {
  Loops loops;
  visit_bucket<Functor>(bucket,
                        [&](auto slots, auto stages) { loops = loops_for_dtypes<Functor, slots(), stages()>(bucket); });
  return loops;
}

template Loops functor_loops<TORCHCLIP_FUNCTOR>(const Bucket&);

}  // namespace torchclip::cpu
