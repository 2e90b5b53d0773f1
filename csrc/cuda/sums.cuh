// From the partial sums of a norm pass to one sum for each unit, by the block that finishes the pass.
#pragma once

#include "../policies.h"
#include "../rules/momentum.h"
#include "../step/device_tables.h"
#include "reduce.cuh"

namespace torchclip::cuda {

__device__ __forceinline__ double read_number(const void* values, bool is_double, int64_t i) {
  return is_double ? static_cast<const double*>(values)[i] : static_cast<double>(static_cast<const float*>(values)[i]);
}
__device__ __forceinline__ void write_number(void* values, bool is_double, int64_t i, double value) {
  if (is_double) {
    static_cast<double*>(values)[i] = value;
  } else {
    static_cast<float*>(values)[i] = static_cast<float>(value);
  }
}

// Sums of one unit or row: `count` of them, each `stride` behind the last.
struct SumRange {
  int64_t first;
  int64_t count;
  int64_t stride;
};

__device__ __forceinline__ SumRange range_of(const UnitSums& sums, int unit) {
  if (sums.of_sets != nullptr) return {unit, sums.sets, sums.units};
  return {sums.unit_chunks[unit], sums.unit_chunks[unit + 1] - sums.unit_chunks[unit], 1};
}

// The part of a sum that one of `lanes` threads adds up.
template <class Sum>
__device__ __forceinline__ void add_range(const Sum* all, const SumRange& range, int lane, int lanes,
                                          double (&sums)[2]) {
  sums[0] = sums[1] = 0;
#pragma unroll 4
  for (int64_t i = lane; i < range.count; i += lanes) {
    const Partial& sum = all[range.first + i * range.stride];
    sums[0] += sum.gradient;
    sums[1] += sum.direction;
  }
}

// Whether a unit has no tensor: of several sets, in none of them.
__device__ __forceinline__ bool is_without_tensors(const UnitSums& sums, const SumRange& range) {
  if (sums.of_sets == nullptr) return range.count == 0;
  bool is_empty = true;
  for (int64_t set = 0; set < range.count; ++set)
    is_empty = is_empty && sums.of_sets[range.first + set * range.stride].count == 0;
  return is_empty;
}

// Calls `take(unit, sum, is_empty)`, in one thread for each unit, with the sum of its partial sums, always added in the
// same order: by the whole block where there is one unit, and by a warp for each where there are many. Where another
// device has some of them too, the sums are written for the finish behind it, nothing is taken, and it returns false.
// All threads must call it.
template <class Take>
__device__ __forceinline__ bool sum_units(const UnitSums& units, const Take& take) {
  const bool is_one = units.units == 1;
  const int rank = is_one ? static_cast<int>(threadIdx.x) : lane_in_warp();
#pragma unroll 1
  for (int unit = is_one ? 0 : warp_in_block(); unit < units.units; unit += is_one ? 1 : kWarps) {
    const SumRange range = range_of(units, unit);
    const int lanes = is_one ? kThreads : kWarp;
    double sums[2];
    if (units.of_sets != nullptr) {
      add_range(units.of_sets, range, rank, lanes, sums);
    } else {
      add_range(units.partials, range, rank, lanes, sums);
    }
    sum_over(is_one, sums);
    if (rank != 0) continue;
    const Partial sum{sums[0], sums[1]};
    if (units.write_to != nullptr) {
      units.write_to[unit] = {sum, static_cast<double>(range.count)};
    } else {
      take(unit, sum, is_without_tensors(units, range));
    }
  }
  return units.write_to == nullptr;
}

// AdaptiveGradientClip's factor of one row, and what its gradients' squares sum to afterwards.
struct RowClip {
  double limit;
  double eps;

  __device__ __forceinline__ double factor(const DeviceTensor&, int64_t, double gradient, double weight) const {
    return unit_clip_factor(sqrt(gradient), sqrt(weight), limit, eps);
  }
  // What stands for the direction in the row's partial sum.
  __device__ __forceinline__ double direction(double factor, double gradient, double) const {
    return square(factor) * gradient;
  }
  static constexpr bool kChangesDirection = true;
};

// AdaGradNorm's step size of one row; the sum of its squared norms moves on unless the step is skipped.
struct RowStep {
  bool skips;

  __device__ __forceinline__ double factor(const DeviceTensor& tensor, int64_t row, double gradient, double) const {
    if (tensor.sums == nullptr) return 1.0;  // below two dimensions, where the update keeps sums of the elements
    const bool is_double = tensor.sum_is_double != 0;
    const double sum = read_number(tensor.sums, is_double, row) + gradient;
    if (!skips) write_number(tensor.sums, is_double, row, sum);
    return 1.0 / (sqrt(sum) + kRowEps);
  }
  __device__ __forceinline__ double direction(double, double, double direction) const { return direction; }
  static constexpr bool kChangesDirection = false;
};

// The factors of the rows that several chunks share, and no other process, by a warp for each. The parts' sums are left
// such that those over all parts are the row's. All threads must call it.
template <class RowRule>
__device__ __forceinline__ void finish_long_rows(const RowSums& rows, const RowRule& rule) {
  for (int index = warp_in_block(); index < rows.long_row_count; index += kWarps) {
    if (rows.shared_rows != nullptr && rows.shared_rows[index].place >= 0) continue;
    const DeviceLongRow& row = rows.long_rows[index];
    const DeviceTensor& tensor = rows.tensors[row.tensor];
    const SumRange range{row.first_partial, row.partials, 1};
    double sums[2];
    add_range(rows.partials, range, lane_in_warp(), kWarp, sums);
    sum_over_warp(sums);
    double direction = 0;
    if (lane_in_warp() == 0) {
      const double factor = rule.factor(tensor, row.row, sums[0], sums[1]);
      rows.row_factors[tensor.first_row + row.row] = factor;
      direction = rule.direction(factor, sums[0], sums[1]);
    }
    if constexpr (RowRule::kChangesDirection)
      for (int64_t i = lane_in_warp(); i < range.count; i += kWarp)
        rows.partials[range.first + i].direction = i == 0 ? direction : 0.0;
  }
  __syncthreads();
}

}  // namespace torchclip::cuda
