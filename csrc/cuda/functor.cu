// The kernels of one functor and their launchers, compiled once for each functor: the build names it in
// TORCHCLIP_FUNCTOR.
#include <cooperative_groups.h>

#include <iterator>
#include <utility>

#include "../dtypes.h"
#include "coded_norms.cuh"
#include "coded_update.cuh"
#include "launchers.cuh"

namespace torchclip::cuda {

// A whole step in one cooperative launch, for models that stay in the second-level cache: there the time between two
// launches is a good part of the step. These are raw_norm_kernel and update_kernel.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    norm_and_update_kernel(const __grid_constant__ PassArguments arguments,
                           const __grid_constant__ FinishArguments finish) {
  measure_gradients<Functor, T>(arguments, finish);
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_step<false>(finish);
  cooperative_groups::this_grid().sync();
  update_chunks<Functor, Slots, Stages, T, S, kThreads>(arguments, finish.coefficients.sets);
}

// direction_norm_kernel and update_kernel.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    direction_and_update_kernel(const __grid_constant__ PassArguments arguments,
                                const __grid_constant__ FinishRuleArguments finish) {
  measure_directions<Functor, Slots, Stages, T, S>(arguments);
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_rule<false>(finish);
  cooperative_groups::this_grid().sync();
  update_chunks<Functor, Slots, Stages, T, S, kThreads>(arguments, finish.coefficients.sets);
}

template <auto update_kernel>
void launch_update(const PassArguments& arguments, void* stream) {
  if (arguments.chunk_count == 0) return;
  const auto blocks = static_cast<uint32_t>(arguments.chunk_count * arguments.pieces);
  const auto own_stream = static_cast<cudaStream_t>(stream);
  if (arguments.early_blocks != 0) {
    TORCHCLIP_LAUNCH_EARLY(update_kernel, blocks, kUpdateThreads, 0, own_stream, arguments);
  } else {
    TORCHCLIP_LAUNCH(update_kernel, blocks, kUpdateThreads, 0, own_stream, arguments);
  }
}

template <auto whole_step_kernel, class Finish>
void launch_whole_step(const PassArguments& arguments, const Finish& finish, uint32_t blocks, void* stream) {
  if (blocks == 0 || arguments.chunk_count == 0) return;
  TORCHCLIP_LAUNCH_COOPERATIVE(whole_step_kernel, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), arguments,
                               finish);
}

template <auto kernel, class Finish>
constexpr auto whole_step_launch() {
  return Launch<void (*)(const PassArguments&, const Finish&, uint32_t, void*)>{launch_whole_step<kernel, Finish>,
                                                                                resident_blocks<kernel>};
}

template <class Functor, unsigned Slots, unsigned Stages>
Launchers launchers_for_dtypes(const Bucket& bucket) {
  Launchers launchers;
  visit_dtypes(bucket.parameter_dtype, bucket.state_dtype, [&](auto parameter, auto state) {
    using T = typename decltype(parameter)::type;
    using S = typename decltype(state)::type;
    launchers.update = launch_update<update_kernel<Functor, Slots, Stages, T, S>>;
    // A step that draws or has factors for each row takes longer than a launch does.
    if constexpr (Stages != kEveryStage)
      launchers.norm_and_update =
          whole_step_launch<norm_and_update_kernel<Functor, Slots, Stages, T, S>, FinishArguments>();
    if constexpr (Functor::kMeasuresDirection) {
      // The direction is that of the first slot, with the second or without.
      constexpr unsigned kMeasured = Slots & 1u;
      launchers.direction_norm =
          norm_launch<direction_norm_kernel<Functor, kMeasured, Stages, T, S>, FinishRuleArguments>();
      if constexpr (Stages == kEveryStage)
        launchers.row_direction_norm =
            norm_launch<row_direction_norm_kernel<Functor, kMeasured, T, S>, FinishRuleArguments>();
      if constexpr (Stages != kEveryStage)
        launchers.direction_and_update =
            whole_step_launch<direction_and_update_kernel<Functor, Slots, Stages, T, S>, FinishRuleArguments>();
    }
  });
  return launchers;
}

// Of operands that a precision policy holds. What they are is told at run time: a kernel for each would multiply them.
template <class Functor, unsigned Slots, unsigned Stages>
UpdateLauncher coded_update(bool has_blocks) {
  return has_blocks ? launch_update<coded_update_kernel<Functor, Slots, Stages, true>>
                    : launch_update<coded_update_kernel<Functor, Slots, Stages, false>>;
}

template <class Functor, unsigned Slots>
Launchers coded_launchers(const Bucket& bucket, bool has_blocks) {
  Launchers launchers;
  const unsigned stages = compiled_stages(bucket.stages);
  launchers.update = stages == 0               ? coded_update<Functor, Slots, 0>(has_blocks)
                     : stages == kCoupledDecay ? coded_update<Functor, Slots, kCoupledDecay>(has_blocks)
                                               : launch_update<coded_update_kernel<Functor, Slots, kEveryStage, true>>;
  if constexpr (Functor::kMeasuresDirection) {
    constexpr unsigned kMeasured = Slots & 1u;
    launchers.direction_norm = norm_launch<coded_direction_norm_kernel<Functor, kMeasured>, FinishRuleArguments>();
    launchers.row_direction_norm =
        norm_launch<coded_row_direction_norm_kernel<Functor, kMeasured>, FinishRuleArguments>();
  }
  return launchers;
}

// The second slot of a functor with a direction belongs to tensors whose elements are their rows, for which one set of
// stages does.
template <class Functor, unsigned Slots>
Launchers launchers_for_stages(const Bucket& bucket) {
  const unsigned stages = compiled_stages(bucket.stages);
  if constexpr (!Functor::kMeasuresDirection || (Slots & 2u) == 0) {
    if (stages == 0) return launchers_for_dtypes<Functor, Slots, 0>(bucket);
    if (stages == kCoupledDecay) return launchers_for_dtypes<Functor, Slots, kCoupledDecay>(bucket);
  }
  return launchers_for_dtypes<Functor, Slots, kEveryStage>(bucket);
}

template <class Functor>
Launchers functor_launchers(const Bucket& bucket, const Types* types) {
  Launchers launchers;
  [&]<size_t... Index>(std::index_sequence<Index...>) {
    ((bucket.slots != Functor::kSlotMasks[Index] ? void()
      : types != nullptr
          ? void(launchers = coded_launchers<Functor, Functor::kSlotMasks[Index]>(bucket, types->has_blocks()))
          : void(launchers = launchers_for_stages<Functor, Functor::kSlotMasks[Index]>(bucket))),
     ...);
  }(std::make_index_sequence<std::size(Functor::kSlotMasks)>{});
  return launchers;
}

template Launchers functor_launchers<TORCHCLIP_FUNCTOR>(const Bucket&, const Types*);

}  // namespace torchclip::cuda
