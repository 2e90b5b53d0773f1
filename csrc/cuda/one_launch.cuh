// A whole step in one cooperative launch, for models that stay in the second-level cache: there the time between two
// launches is a good part of the step.
#pragma once

#include <cooperative_groups.h>

#include "norms.cuh"
#include "update.cuh"

namespace torchclip::cuda {

// raw_norm_kernel and update_kernel.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    norm_and_update_kernel(const __grid_constant__ PassArguments arguments,
                           const __grid_constant__ FinishArguments finish) {
  measure_gradients<Functor, T>(arguments, finish);
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_step<false>(finish);
  cooperative_groups::this_grid().sync();
  update_chunks<Functor, Slots, Stages, T, S, kThreads>(arguments, finish.rows.rows);
}

// direction_norm_kernel and update_kernel.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    direction_and_update_kernel(const __grid_constant__ PassArguments arguments,
                                const __grid_constant__ FinishRuleArguments finish) {
  measure_directions<Functor, Slots, Stages, T, S>(arguments);
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_rule<false>(finish);
  cooperative_groups::this_grid().sync();
  update_chunks<Functor, Slots, Stages, T, S, kThreads>(arguments, finish.rows.rows);
}

}  // namespace torchclip::cuda
