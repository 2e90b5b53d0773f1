// The launchers, and the one place where the kernels of the CUDA backend are instantiated.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

#include "../dtypes.h"
#include "kernels.cuh"
#include "launch.h"
#include "passes.h"

namespace torchclip::cuda {
namespace {

// As many blocks as the device holds at once, but no more than there are chunks.
template <class Kernel>
uint32_t resident_blocks(Kernel* kernel, int64_t chunk_count) {
  int device = 0, multiprocessors = 0, blocks = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, 0), "cudaOccupancy");
  return static_cast<uint32_t>(std::min<int64_t>(static_cast<int64_t>(multiprocessors) * blocks, chunk_count));
}

template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
void launch_update(const PassArguments& arguments, void* stream) {
  if (arguments.chunk_count == 0) return;
  const auto kernel = update_kernel<Functor, Slots, Stages, T, S>;
  const uint32_t blocks = resident_blocks(kernel, arguments.chunk_count);
  TORCHCLIP_LAUNCH(kernel, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

template <class T>
uint32_t norm_blocks(int64_t chunk_count) {
  return chunk_count == 0 ? 0 : resident_blocks(raw_norm_kernel<T>, chunk_count);
}

template <class T>
void launch_raw_norm(const PassArguments& arguments, const FinishArguments& finish, uint32_t blocks, void* stream) {
  if (blocks == 0) return;
  TORCHCLIP_LAUNCH(raw_norm_kernel<T>, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), arguments, finish);
}

template <unsigned Slots, unsigned Stages, class T, class S>
uint32_t direction_blocks(int64_t chunk_count) {
  return chunk_count == 0 ? 0 : resident_blocks(direction_norm_kernel<Slots, Stages, T, S>, chunk_count);
}

template <unsigned Slots, unsigned Stages, class T, class S>
void launch_direction_norm(const PassArguments& arguments, const FinishRuleArguments& finish, uint32_t blocks,
                           void* stream) {
  if (blocks == 0) return;
  const auto kernel = direction_norm_kernel<Slots, Stages, T, S>;
  TORCHCLIP_LAUNCH(kernel, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), arguments, finish);
}

template <class Functor, unsigned Slots, unsigned Stages>
Launchers launchers_for_dtypes(const Bucket& bucket) {
  Launchers launchers;
  visit_dtypes(bucket.parameter_dtype, bucket.state_dtype, [&](auto parameter, auto state) {
    using T = typename decltype(parameter)::type;
    using S = typename decltype(state)::type;
    launchers = {launch_update<Functor, Slots, Stages, T, S>, launch_raw_norm<T>, norm_blocks<T>};
    if constexpr (Functor::kMeasuresDirection) {
      launchers.direction_norm = launch_direction_norm<Slots, Stages, T, S>;
      launchers.direction_blocks = direction_blocks<Slots, Stages, T, S>;
    }
  });
  return launchers;
}

template <class Functor, unsigned Slots>
Launchers launchers_for_stages(const Bucket& bucket) {
  switch (compiled_stages(bucket.stages)) {
    case 0:
      return launchers_for_dtypes<Functor, Slots, 0>(bucket);
    case kCoupledDecay:
      return launchers_for_dtypes<Functor, Slots, kCoupledDecay>(bucket);
    default:
      return launchers_for_dtypes<Functor, Slots, kEveryStage>(bucket);
  }
}

template <class Functor>
Launchers launchers_for_slots(const Bucket& bucket) {
  Launchers launchers;
  [&]<size_t... Index>(std::index_sequence<Index...>) {
    ((bucket.slots == Functor::kSlotMasks[Index]
          ? void(launchers = launchers_for_stages<Functor, Functor::kSlotMasks[Index]>(bucket))
          : void()),
     ...);
  }(std::make_index_sequence<std::size(Functor::kSlotMasks)>{});
  return launchers;
}

template <class... Rule>
Launchers launchers_for_rule(TypeList<Rule...>, const char* name, const Bucket& bucket) {
  Launchers launchers;
  ((std::strcmp(name, Rule::kName) == 0 ? void(launchers = launchers_for_slots<typename Rule::Functor>(bucket))
                                        : void()),
   ...);
  return launchers;
}

}  // namespace

Launchers find_launchers(const char* rule, const Bucket& bucket) { return launchers_for_rule(Rules{}, rule, bucket); }

void launch_finish(const FinishArguments& arguments, void* stream) {
  TORCHCLIP_LAUNCH(finish_kernel, 1, kThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

}  // namespace torchclip::cuda
