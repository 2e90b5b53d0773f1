// Rows of coefficients from the numbers of param groups and parameters, on the device.
#pragma once

#include <type_traits>

#include "../dtypes.h"
#include "../rows.h"
#include "../rules/registry.h"
#include "sums.cuh"

namespace torchclip::cuda {

// Calls `visit` with the rule at that position of the registry.
template <class Visit>
__device__ __forceinline__ void visit_rule(int32_t rule, const Visit& visit) {
  for_each_rule(Rules{}, [&](auto each, int32_t position) {
    if (position == rule) visit(each);
  });
}

__device__ __forceinline__ const GroupNumbers& group_of(const RowArguments& rows, int32_t group) {
  return rows.groups != nullptr ? rows.groups[group] : rows.inline_groups[group];
}

__device__ __forceinline__ double lr_of(const GroupNumbers& group) {
  return group.lr != nullptr ? read_number(group.lr, group.lr_is_double != 0, 0) : group.hyperparameters[0];
}

// Between memory and a struct of nothing but doubles, one at a time: a plain copy of what a pointer leads to would go
// byte by byte.
template <class Struct>
__device__ __forceinline__ Struct read_struct(const double* from) {
  double values[sizeof(Struct) / sizeof(double)];
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Struct) / sizeof(double)); ++i) values[i] = from[i];
  Struct result;
  memcpy(&result, values, sizeof(Struct));
  return result;
}
template <class Struct>
__device__ __forceinline__ void write_struct(const Struct& from, double* to) {
  double values[sizeof(Struct) / sizeof(double)];
  memcpy(values, &from, sizeof(Struct));
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Struct) / sizeof(double)); ++i) to[i] = values[i];
}

template <class Rule>
__device__ __forceinline__ typename Rule::Hyperparameters hyperparameters_of(const GroupNumbers& group) {
  static_assert(sizeof(typename Rule::Hyperparameters) <= sizeof(group.hyperparameters));
  auto hyperparameters = read_struct<typename Rule::Hyperparameters>(group.hyperparameters);
  hyperparameters.lr = lr_of(group);
  return hyperparameters;
}

__device__ __forceinline__ PipelineCoefficients<double> pipeline_of(const GroupNumbers& group,
                                                                    const Modifiers& modifiers, double step,
                                                                    double inverse_grad_scale) {
  return make_row(lr_of(group), group.weight_decay, group.decoupled != 0, group.maximize != 0, modifiers, step,
                  inverse_grad_scale)
      .pipeline;
}

// The rule's coefficients of one row. `scalars`: becomes the numbers of state as this step leaves them. Returns the
// factor of a rule that clips itself.
template <class Rule>
__device__ __forceinline__ double set_coefficients(const RowArguments& rows, const RowSource& source,
                                                   DirectionNorms norms, Row& row, double (&scalars)[kMaxScalars]) {
  const auto hyperparameters = hyperparameters_of<Rule>(group_of(rows, source.group));
#pragma unroll
  for (int i = 0; i < Rule::kScalars; ++i)
    scalars[i] = read_number(source.scalars[i], source.scalar_is_double[i] != 0, 0);
  const bool is_fresh = source.fresh >= 0 && rows.fresh[source.fresh] != 0;
  write_struct(Rule::coefficients(hyperparameters, scalars, is_fresh, norms), row.rule);
  if constexpr (Rule::kClipsItself) return Rule::direction_factor(hyperparameters, norms);
  return 1.0;
}

}  // namespace torchclip::cuda
