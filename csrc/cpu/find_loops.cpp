// Chooses the compiled loops of a bucket: those of its rule's functor, and those that know types alone.
#include <cstring>
#include <utility>

#include "../dtypes.h"
#include "functor_loops.h"
#include "loops.h"
#include "x86.h"

namespace torchclip::cpu {
namespace {

template <unsigned Stages, class T>
void perturb_block(const void* gradient, int64_t count, const Coefficients& coefficients, const uint32_t* words,
                   uint32_t threshold, const float* normals, void* out) {
  perturb_loop<Stages, T>(static_cast<const T*>(gradient), count, coefficients, words, threshold, normals,
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

// Calls `visit` with the type of a rule's functor, in a constant.
template <class Visit>
void visit_functor(const char* rule, const Visit& visit) {
  for_each_rule(Rules{}, [&](auto each, int32_t) {
    using Rule = typename decltype(each)::type;
    if (std::strcmp(rule, Rule::kName) == 0) visit(Type<typename Rule::Functor>{});
  });
}

// Likewise, and with the widest set of instructions that this processor and this build have loops for, if any.
template <class Visit>
void visit_functor_and_set(const char* rule, const Visit& visit) {
#if defined(TORCHCLIP_X86)
  visit_functor(rule, [&](auto functor) {
    if (runs_avx512()) return visit(functor, Type<Avx512>{});
    if (runs_avx2()) return visit(functor, Type<Avx2>{});
  });
#endif
}

}  // namespace

Loops find_loops(const char* rule, const Bucket& bucket) {
  Loops loops;
  visit_functor(rule, [&](auto functor) { loops = functor_loops<typename decltype(functor)::type>(bucket); });
  visit_functor_and_set(rule, [&](auto functor, auto set) {
    const VectorLoops own = vector_loops<typename decltype(functor)::type, typename decltype(set)::type>(bucket);
    if (own.update != nullptr) loops.update = own.update;
  });
  visit_dtypes(bucket.parameter_dtype, bucket.parameter_dtype, [&](auto parameter, auto) {
    using T = typename decltype(parameter)::type;
    loops.norm[static_cast<int>(Measure::kRawGradient)] = raw_norm_loop<T>;
    loops.norm[static_cast<int>(Measure::kWeight)] = weight_norm_loop<T>;
    loops.perturb = perturb_for_stages<T>(bucket.stages);
    loops.synchronise = synchronise_block<T>;
    loops.average = average_block<T>;
  });
  return loops;
}

SplitLoop find_split_loop(const char* rule, const Bucket& bucket) {
  SplitLoop loop = nullptr;
  visit_functor_and_set(rule, [&](auto functor, auto set) {
    loop = vector_loops<typename decltype(functor)::type, typename decltype(set)::type>(bucket).update_split;
  });
  return loop;
}

BlockLoop find_block_loop(const char* rule, const Bucket& bucket, const Types& types) {
  BlockLoop loop = nullptr;
  visit_functor_and_set(rule, [&](auto functor, auto set) {
    loop = vector_block_loop<typename decltype(functor)::type, typename decltype(set)::type>(bucket, types);
  });
  return loop;
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
