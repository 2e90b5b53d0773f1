// The norm passes that keep the rows of the leading dimension apart.
#pragma once

#include "norms.cuh"

namespace torchclip::cuda {

// Where the elements of one row of a tensor lie among all: one after the other, or in runs of `inner`, in which
// neighbouring threads still find neighbours.
struct InRow {
  const Rows& rows;
  int64_t row;
  bool is_scattered;

  __device__ __forceinline__ InRow(const DeviceTensor& tensor, int64_t row)
      : rows(tensor.rows), row(row), is_scattered(tensor.rows.scattered(tensor.numel)) {}

  __device__ __forceinline__ bool is_dense() const { return !is_scattered; }
  // The place of the row's first element; those behind it follow.
  __device__ __forceinline__ int64_t first() const { return is_scattered ? 0 : row * rows.inner; }
  __device__ __forceinline__ int64_t element(int64_t place) const {
    if (!is_scattered) return place;
    return place / rows.inner * (rows.inner * rows.count) + row * rows.inner + place % rows.inner;
  }
};

// One chunk: whole rows, many of them by a warp each and few by the block; or a part of a row, by the block. Leaves,
// spread over the threads, the chunk's sums; those of a part of a long row are raw, since the finish adds them up.
template <class Meter, class RowRule>
__device__ __forceinline__ void measure_row_chunk(const PassArguments& arguments, const DeviceRowChunk& chunk,
                                                  Meter& meter, const RowRule& rule, double (&totals)[2]) {
  const DeviceTensor& tensor = arguments.tensors[chunk.tensor];
  const bool is_part = chunk.rows == 0, by_warp = chunk.rows >= kWarps;
  const int rank = by_warp ? lane_in_warp() : static_cast<int>(threadIdx.x), lanes = by_warp ? kWarp : kThreads;
  const int64_t begin = is_part ? chunk.begin : 0;
  const int64_t end = is_part ? begin + chunk.count : tensor.numel / tensor.rows.count;
  const int32_t rows = is_part ? 1 : chunk.rows;
#pragma unroll 1
  for (int32_t index = by_warp ? warp_in_block() : 0; index < rows; index += by_warp ? kWarps : 1) {
    const int64_t row = chunk.row + index;
    const InRow places(tensor, row);
    double sums[2];
    meter.measure(places.first() + begin, places.first() + end, rank, lanes, places, sums);
    sum_over(!by_warp, sums);
    if (rank != 0) continue;
    double direction = sums[1];
    if (!is_part) {
      const double factor = rule.factor(tensor, row, sums[0], sums[1]);
      arguments.row_factors[tensor.first_row + row] = factor;
      direction = rule.direction(factor, sums[0], sums[1]);
    } else if (RowRule::kChangesDirection && chunk.long_row < 0) {
      direction = sums[0];  // the gradients of a tensor without rows stay as they are
    }
    totals[0] += sums[0];
    totals[1] += direction;
  }
}

// The partial sums of every chunk.
template <class MakeMeter, class RowRule>
__device__ __forceinline__ void measure_row_chunks(const PassArguments& arguments, uint32_t blocks,
                                                   const MakeMeter& make_meter, const RowRule& rule) {
  if (blockIdx.x >= blocks) return;
#pragma unroll 1
  for (int64_t index = blockIdx.x; index < arguments.chunk_count; index += blocks) {
    const DeviceRowChunk chunk = arguments.row_chunks[index];
    auto meter = make_meter(chunk.tensor, policy_of_chunk(arguments, index));
    double totals[2] = {};
    measure_row_chunk(arguments, chunk, meter, rule, totals);
    sum_over_block(totals);
    if (threadIdx.x == 0) arguments.partials[chunk.partial] = Partial{totals[0], totals[1]};
  }
}

// Of the scaled gradients and of the weights, for AdaptiveGradientClip.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    row_norm_kernel(const __grid_constant__ PassArguments arguments, const __grid_constant__ FinishArguments finish) {
  let_next_begin();
  const uint32_t blocks = measuring_blocks(finish.fills_coefficients != 0);
  if (finish.fills_coefficients != 0 && blockIdx.x == gridDim.x - 1) fill_coefficients<void>(finish);
  const auto scale = static_cast<ComputeType<T>>(inverse_scale(finish));
  measure_row_chunks(
      arguments, blocks,
      [&](int32_t tensor, CachePolicy policy) { return GradientMeter<T, true>(arguments, tensor, policy, scale); },
      RowClip{finish.modifiers.limit, finish.modifiers.unit_eps});
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_step<true>(finish);
}

// Of the gradient as the rule sees it and of its direction, for AdaGradNorm over rows.
template <class Functor, unsigned Slots, class T, class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    row_direction_norm_kernel(const __grid_constant__ PassArguments arguments,
                              const __grid_constant__ FinishRuleArguments finish) {
  let_next_begin();
  const bool skips = arguments.numbers != nullptr && arguments.numbers->skip != 0;
  measure_row_chunks(
      arguments, gridDim.x,
      [&](int32_t tensor, CachePolicy policy) {
        return DirectionMeter<Functor, Slots, kEveryStage, T, S>(arguments, tensor, policy);
      },
      RowStep{skips});
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_rule<true>(finish);
}

}  // namespace torchclip::cuda
