// Chooses the compiled loop of a bucket. Every combination that can occur is instantiated here, and nowhere else.
#include <cstring>
#include <iterator>
#include <utility>

#include "../dtypes.h"
#include "loops.h"

namespace torchclip::cpu {
namespace {

template <unsigned Stages, class T>
void perturb_block(const void* gradient, int64_t count, const Row& row, const uint32_t* words, uint32_t threshold,
                   const float* normals, void* out) {
  perturb_loop<Stages, T>(static_cast<const T*>(gradient), count, row, words, threshold, normals,
                          static_cast<ComputeType<T>*>(out));
}

template <class T>
void synchronise_block(void* slow, int64_t count, double alpha, void* parameter) {
  synchronise_loop<T>(static_cast<ComputeType<T>*>(slow), count, alpha, static_cast<T*>(parameter));
}

template <class T>
void average_block(void* average, int64_t count, double alpha, void* parameter) {
  average_loop<T>(static_cast<ComputeType<T>*>(average), count, alpha, static_cast<const T*>(parameter));
}

template <class T>
PerturbLoop perturb_for_stages(unsigned stages) {
  PerturbLoop loop = nullptr;
  [&]<unsigned... Stages>(std::integer_sequence<unsigned, Stages...>) {
    (((stages & kPerturbations) == Stages ? void(loop = perturb_block<Stages, T>) : void()), ...);
  }(std::make_integer_sequence<unsigned, kPerturbations + 1>{});
  return loop;
}

// The stages around the rule have loops of their own; of the rule's loops coupled decay alone asks for two versions.
template <class Functor, unsigned Slots, unsigned Decay>
Loops loops_for_dtypes(const Bucket& bucket) {
  Loops loops;
  visit_dtypes(bucket.parameter_dtype, bucket.state_dtype, [&](auto parameter, auto state) {
    using T = typename decltype(parameter)::type;
    using S = typename decltype(state)::type;
    using C = ComputeType<T>;
    loops.update = update_loop<Functor, Slots, Decay, T, S>;
    loops.update_pieces = update_pieces_loop<Functor, Slots, Decay, T, S>;
    loops.writes_only = !kNeedsParameter<Functor, Decay>;
    loops.norm[static_cast<int>(Measure::kRawGradient)] = raw_norm_loop<T>;
    loops.norm[static_cast<int>(Measure::kWeight)] = weight_norm_loop<T>;
    if constexpr (Functor::kMeasuresDirection) {
      loops.norm[static_cast<int>(Measure::kDirection)] = direction_norm_loop<Functor, Slots, Decay, T, S, T>;
      loops.direction_prepared = direction_norm_loop<Functor, Slots, Decay, T, S, C>;
      loops.step_coefficients = Functor::kStepCoefficients;
    }
    loops.perturb = perturb_for_stages<T>(bucket.stages);
    loops.synchronise = synchronise_block<T>;
    loops.average = average_block<T>;
  });
  return loops;
}

template <class Functor>
Loops loops_for_slots(const Bucket& bucket) {
  Loops loops;
  [&]<size_t... Index>(std::index_sequence<Index...>) {
    ((bucket.slots != Functor::kSlotMasks[Index] ? void()
      : (bucket.stages & kCoupledDecay) != 0
          ? void(loops = loops_for_dtypes<Functor, Functor::kSlotMasks[Index], kCoupledDecay>(bucket))
          : void(loops = loops_for_dtypes<Functor, Functor::kSlotMasks[Index], 0>(bucket))),
     ...);
  }(std::make_index_sequence<std::size(Functor::kSlotMasks)>{});
  return loops;
}

}  // namespace

Loops find_loops(const char* rule, const Bucket& bucket) {
  Loops loops;
  for_each_rule(Rules{}, [&](auto each, int32_t) {
    using Rule = typename decltype(each)::type;
    if (std::strcmp(rule, Rule::kName) == 0) loops = loops_for_slots<typename Rule::Functor>(bucket);
  });
  return loops;
}

Loops find_gradient_loops(DType dtype, double order) {
  Loops loops;
  visit_dtypes(dtype, dtype, [&](auto gradient, auto) {
    using T = typename decltype(gradient)::type;
    NormLoop& norm = loops.norm[static_cast<int>(Measure::kRawGradient)];
    loops.update = scale_loop<T>;
    norm = order == 2 ? raw_norm_loop<T> : std::isinf(order) ? largest_loop<T> : power_sum_loop<T>;
  });
  return loops;
}

}  // namespace torchclip::cpu
