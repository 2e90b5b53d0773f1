// Thresholds that have factors, which target_sparsity steers by the zeros that the last step has left.
#pragma once

#include "../steering.h"
#include "sums.cuh"

namespace torchclip::cuda {

__device__ __forceinline__ const GroupNumbers& group_of(const CoefficientArguments& coefficients, int32_t group) {
  return coefficients.groups != nullptr ? coefficients.groups[group] : coefficients.inline_groups[group];
}

__device__ __forceinline__ double lr_of(const GroupNumbers& group) {
  return group.lr != nullptr ? read_number(group.lr, group.lr_is_double != 0, 0) : group.hyperparameters[0];
}

// The first range of a group's own zeros; the last where those of all processes take their place.
__device__ __forceinline__ int first_zeros(const CoefficientArguments& coefficients, int32_t group) {
  return coefficients.zero_begins[coefficients.shared_zeros == nullptr ? group : group + 1];
}

// Those that all processes have in a group. Returns the elements among which they are.
__device__ __forceinline__ double add_shared_zeros(const CoefficientArguments& coefficients, int32_t group,
                                                   double& zeros) {
  double elements = 0;
#pragma unroll 1
  for (int set = 0; set < coefficients.zero_sets; ++set) {
    const int64_t cell = static_cast<int64_t>(set) * coefficients.group_count + group;
    zeros += coefficients.shared_zeros[cell].zeros;
    elements += coefficients.shared_zeros[cell].elements;
  }
  return elements;
}

// The factor that each group's has in this step; where its parameters cannot move, that of before. All threads must
// call it.
__device__ __forceinline__ void steer_thresholds(const CoefficientArguments& coefficients) {
#pragma unroll 1
  for (int group = 0; group < coefficients.group_count; ++group) {
    const GroupNumbers& numbers = group_of(coefficients, group);
    if (numbers.threshold_scale == nullptr) continue;
    double zeros[1] = {};
#pragma unroll 1
    for (int index = first_zeros(coefficients, group); index < coefficients.zero_begins[group + 1]; ++index) {
      const ZeroRange range = coefficients.zero_ranges[index];
      for (int64_t i = threadIdx.x; i < range.count; i += kThreads)
        zeros[0] += static_cast<double>(coefficients.zeros[range.first + i]);
    }
    sum_over_block(zeros);
    if (threadIdx.x != 0) continue;
    double elements = numbers.elements;
    if (coefficients.shared_zeros != nullptr && elements > 0)
      elements = add_shared_zeros(coefficients, group, zeros[0]);
    const double scale = *numbers.threshold_scale;
    const bool moves = elements > 0 && lr_of(numbers) != 0;
    coefficients.next_scales[group] = moves ? steered_scale(scale, numbers.target, zeros[0] / elements) : scale;
  }
  __syncthreads();
}

// Of a group; 1 where nothing has touched it.
__device__ __forceinline__ double threshold_scale_of(const CoefficientArguments& coefficients, int32_t group) {
  const bool has_scale = coefficients.zeros != nullptr && group_of(coefficients, group).threshold_scale != nullptr;
  return has_scale ? coefficients.next_scales[group] : 1.0;
}

// What a step that is taken leaves behind.
__device__ __forceinline__ void keep_threshold_scales(const CoefficientArguments& coefficients) {
#pragma unroll 1
  for (int group = static_cast<int>(threadIdx.x); group < coefficients.group_count; group += kThreads) {
    double* const scale = group_of(coefficients, group).threshold_scale;
    if (scale != nullptr) *scale = coefficients.next_scales[group];
  }
}

}  // namespace torchclip::cuda
