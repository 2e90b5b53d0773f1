// Chooses the compiled loop of a bucket. Every combination that can occur is instantiated here, and nowhere else.
#include <cstring>
#include <iterator>
#include <utility>

#include "loops.h"

namespace torchclip::cpu {
namespace {

template <class T>
struct Type {
  using type = T;
};

// Calls `visit` with the storage types; false when the pair is not one that occurs. State is stored in the parameter's
// type, or in float32 beside a half-precision parameter.
template <class Visitor>
bool visit_dtypes(DType parameter, DType state, const Visitor& visit) {
  switch (parameter) {
    case DType::kFloat32:
      if (state != DType::kFloat32) return false;
      visit(Type<float>{}, Type<float>{});
      return true;
    case DType::kFloat64:
      if (state != DType::kFloat64) return false;
      visit(Type<double>{}, Type<double>{});
      return true;
    case DType::kBFloat16:
      if (state == DType::kBFloat16) return visit(Type<BFloat16>{}, Type<BFloat16>{}), true;
      if (state == DType::kFloat32) return visit(Type<BFloat16>{}, Type<float>{}), true;
      return false;
    case DType::kFloat16:
      if (state == DType::kFloat16) return visit(Type<Float16>{}, Type<Float16>{}), true;
      if (state == DType::kFloat32) return visit(Type<Float16>{}, Type<float>{}), true;
      return false;
  }
  return false;
}

template <class Functor, unsigned Slots, unsigned Stages>
Loops loops_for_dtypes(const Bucket& bucket) {
  Loops loops;
  visit_dtypes(bucket.parameter_dtype, bucket.state_dtype, [&](auto parameter, auto state) {
    using T = typename decltype(parameter)::type;
    using S = typename decltype(state)::type;
    loops.update = update_loop<Functor, Slots, Stages, T, S>;
    loops.writes_only = !kNeedsParameter<Functor, Stages>;
    loops.norm[static_cast<int>(Measure::kRawGradient)] = raw_norm_loop<T>;
    if constexpr (Functor::kMeasuresDirection)
      loops.norm[static_cast<int>(Measure::kDirection)] = direction_norm_loop<Functor, Slots, Stages, T, S>;
  });
  return loops;
}

template <class Functor, unsigned Slots>
Loops loops_for_stages(const Bucket& bucket) {
  Loops loops;
  [&]<unsigned... Stages>(std::integer_sequence<unsigned, Stages...>) {
    ((bucket.stages == Stages ? void(loops = loops_for_dtypes<Functor, Slots, Stages>(bucket)) : void()), ...);
  }(std::make_integer_sequence<unsigned, kStageSets>{});
  return loops;
}

template <class Functor>
Loops loops_for_slots(const Bucket& bucket) {
  Loops loops;
  [&]<size_t... Index>(std::index_sequence<Index...>) {
    ((bucket.slots == Functor::kSlotMasks[Index]
          ? void(loops = loops_for_stages<Functor, Functor::kSlotMasks[Index]>(bucket))
          : void()),
     ...);
  }(std::make_index_sequence<std::size(Functor::kSlotMasks)>{});
  return loops;
}

template <class... Rule>
Loops loops_for_rule(TypeList<Rule...>, const char* name, const Bucket& bucket) {
  Loops loops;
  ((std::strcmp(name, Rule::kName) == 0 ? void(loops = loops_for_slots<typename Rule::Functor>(bucket)) : void()), ...);
  return loops;
}

}  // namespace

Loops find_loops(const char* rule, const Bucket& bucket) { return loops_for_rule(Rules{}, rule, bucket); }

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
