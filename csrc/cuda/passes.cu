// Which kernels serve a bucket, and those that know no rule: norms of gradients, and the finishes alone.
#include <cstring>

#include "coded_norms.cuh"
#include "launchers.cuh"
#include "share.cuh"

namespace torchclip::cuda {
namespace {

// What this process has for an exchange with others.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    share_kernel(const __grid_constant__ ShareArguments share) {
  fill_exchange(share);
}

// Alone where nothing is measured and yet a number on the device decides, and behind sums from several devices or
// processes.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    finish_step_kernel(const __grid_constant__ FinishArguments finish) {
  if (finish.fills_coefficients != 0) fill_coefficients<void>(finish);
  if (finish.row_sums.shared_row_count > 0 || finish.row_sums.places > 0)
    finish_shared_rows(finish.row_sums, finish.sums.of_sets,
                       RowClip{finish.modifiers.limit, finish.modifiers.unit_eps});
  finish_step<true>(finish);
}

// Alone behind sums from several devices or processes.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    finish_rule_kernel(const __grid_constant__ FinishRuleArguments finish) {
  const bool skips = finish.numbers != nullptr && finish.numbers->skip != 0;
  if (finish.row_sums.shared_row_count > 0) finish_shared_rows(finish.row_sums, finish.sums.of_sets, RowStep{skips});
  finish_rule<true>(finish);
}

// As row_norm_kernel, of operands that a precision policy holds.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    coded_row_norm_kernel(const __grid_constant__ PassArguments arguments,
                          const __grid_constant__ FinishArguments finish) {
  let_next_begin();
  const uint32_t blocks = measuring_blocks(finish.fills_coefficients != 0);
  if (finish.fills_coefficients != 0 && blockIdx.x == gridDim.x - 1) fill_coefficients<void>(finish);
  const auto scale = static_cast<float>(inverse_scale(finish));
  measure_row_chunks(
      arguments, blocks,
      [&](int32_t tensor, CachePolicy policy) { return CodedWeightMeter(arguments, tensor, policy, scale); },
      RowClip{finish.modifiers.limit, finish.modifiers.unit_eps});
  if (is_last_block(finish.blocks_done, finish.blocks)) finish_step<true>(finish);
}

}  // namespace

Launchers find_launchers(const char* rule, const Bucket& bucket, const Types* types) {
  Launchers launchers;
  for_each_rule(Rules{}, [&](auto each, int32_t) {
    using Rule = typename decltype(each)::type;
    if (std::strcmp(rule, Rule::kName) == 0) launchers = functor_launchers<typename Rule::Functor>(bucket, types);
  });
  const DType gradient_dtype = types == nullptr ? bucket.parameter_dtype : types->gradient;
  visit_dtypes(gradient_dtype, gradient_dtype, [&](auto gradient, auto) {
    using T = typename decltype(gradient)::type;
    launchers.raw_norm = norm_launch<raw_norm_kernel<T>, FinishArguments>();
    launchers.row_norm = norm_launch<row_norm_kernel<T>, FinishArguments>();
  });
  if (types != nullptr) launchers.row_norm = norm_launch<coded_row_norm_kernel, FinishArguments>();
  return launchers;
}

void launch_finish(const FinishArguments& arguments, void* stream) {
  TORCHCLIP_LAUNCH(finish_step_kernel, 1, kThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

void launch_share(const ShareArguments& arguments, void* stream) {
  TORCHCLIP_LAUNCH(share_kernel, 1, kThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

void launch_finish_rule(const FinishRuleArguments& arguments, void* stream) {
  TORCHCLIP_LAUNCH(finish_rule_kernel, 1, kThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

}  // namespace torchclip::cuda
