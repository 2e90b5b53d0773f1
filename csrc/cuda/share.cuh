// The exchange of a norm pass with other processes: what goes out to it, and what the rows of which they have parts
// come to behind it.
#pragma once

#include "finish.cuh"

namespace torchclip::cuda {

// The sums of each cell, and how many tensors count in it. Returns, in all threads, whether one is not finite.
__device__ __forceinline__ bool fill_cells(const ShareArguments& share) {
  __shared__ int is_lost;
  if (threadIdx.x == 0) is_lost = 0;
  __syncthreads();
  const bool is_one = share.layout.cells == 1;
  const int rank = is_one ? static_cast<int>(threadIdx.x) : lane_in_warp();
#pragma unroll 1
  for (int cell = is_one ? 0 : warp_in_block(); cell < share.layout.cells; cell += is_one ? 1 : kWarps) {
    double totals[2] = {};
    for (int32_t index = share.range_begins[cell]; index < share.range_begins[cell + 1]; ++index) {
      const SharedRange& range = share.ranges[index];
      double sums[2];
      add_range(share.row_sums.partials, {range.first, range.count, 1}, rank, is_one ? kThreads : kWarp, sums);
      totals[0] += range.share * sums[0];
      totals[1] += range.share * sums[1];
    }
    sum_over(is_one, totals);
    if (rank != 0) continue;
    share.layout.sums(share.numbers)[cell] = {{totals[0], totals[1]}, static_cast<double>(share.tensors[cell])};
    if (!is_finite(totals[0])) atomicOr(&is_lost, 1);
  }
  __syncthreads();
  return is_lost != 0;
}

// The sums of the rows of which others have parts, by a warp for each.
__device__ __forceinline__ void fill_rows(const ShareArguments& share) {
  const RowSums& rows = share.row_sums;
  Partial* const sums_of_places = share.layout.rows(share.numbers);
#pragma unroll 1
  for (int index = warp_in_block(); rows.shared_rows != nullptr && index < rows.long_row_count; index += kWarps) {
    const SharedRow& shared = rows.shared_rows[index];
    if (shared.place < 0) continue;
    const DeviceLongRow& row = rows.long_rows[index];
    double sums[2];
    add_range(rows.partials, {row.first_partial, row.partials, 1}, lane_in_warp(), kWarp, sums);
    sum_over_warp(sums);
    if (lane_in_warp() == 0) sums_of_places[shared.place] = {shared.share * sums[0], shared.share * sums[1]};
    for (int64_t i = lane_in_warp(); share.changes_direction != 0 && i < row.partials; i += kWarp)
      rows.partials[row.first_partial + i].direction = 0;
  }
}

// The zeros that the last step has left, and the elements among which they are.
__device__ __forceinline__ void fill_zeros(const ShareArguments& share) {
  ZeroCount* const cells = share.layout.zeros(share.numbers);
#pragma unroll 1
  for (int cell = 0; cell < share.layout.zero_cells; ++cell) {
    double zeros[1] = {};
    for (int32_t index = share.zero_begins[cell]; index < share.zero_begins[cell + 1]; ++index) {
      const SharedRange& range = share.zero_ranges[index];
      for (int64_t i = threadIdx.x; i < range.count; i += kThreads)
        zeros[0] += range.share * static_cast<double>(share.zeros[range.first + i]);
    }
    sum_over_block(zeros);
    if (threadIdx.x == 0) cells[cell] = {zeros[0], share.zero_elements[cell]};
  }
}

// This process's part of an exchange, by one block.
__device__ __forceinline__ void fill_exchange(const ShareArguments& share) {
  for (int64_t i = threadIdx.x; i < share.layout.count(); i += kThreads) share.numbers[i] = 0;
  __syncthreads();
  fill_rows(share);
  __syncthreads();
  const bool is_lost = fill_cells(share);
  if (share.is_first == 0) return;
  fill_zeros(share);
  if (threadIdx.x != 0) return;
  double* const common = share.layout.common(share.numbers);
  common[kOverflows] = share.found_inf != nullptr && *share.found_inf != 0 ? 1 : 0;
  common[kLost] = is_lost ? 1 : 0;
  common[kGradients] = share.gradients;
  common[kAgreed] = 1;
  common[kAgreed + 1] = share.number;
  common[kAgreed + 2] = square(share.number);
  common[kLoss] = share.loss == nullptr ? 0.0 : share.loss_share * read_loss(share.loss, share.loss_dtype);
}

// The factors of these rows by the sums of all processes. `cells`: of the exchange, the first of which has everything
// but what is left of them. All threads must call it.
template <class RowRule>
__device__ __forceinline__ void finish_shared_rows(const RowSums& rows, UnitSum* cells, const RowRule& rule) {
  for (int index = static_cast<int>(threadIdx.x); index < rows.shared_row_count; index += kThreads) {
    const int64_t place = rows.shared_rows[index].place;
    if (place < 0) continue;
    const DeviceLongRow& row = rows.long_rows[index];
    const DeviceTensor& tensor = rows.tensors[row.tensor];
    const Partial& sum = rows.place_sums[place];
    rows.row_factors[tensor.first_row + row.row] = rule.factor(tensor, row.row, sum.gradient, sum.direction);
  }
  if constexpr (RowRule::kChangesDirection) {
    double left[1] = {};
    for (int64_t place = threadIdx.x; place < rows.places; place += kThreads) {
      const auto [gradient, weight] = rows.place_sums[place];
      left[0] += rule.direction(rule.factor(*rows.tensors, 0, gradient, weight), gradient, weight);
    }
    sum_over_block(left);
    if (threadIdx.x == 0) cells[0].direction += left[0];
  }
  __syncthreads();
}

}  // namespace torchclip::cuda
