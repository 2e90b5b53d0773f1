// Which kernels serve a bucket, and those that know no rule: norms of gradients, and the finishes alone.
#include <cstring>

#include "launchers.cuh"
#include "row_norms.cuh"

namespace torchclip::cuda {
namespace {

// Alone where nothing is measured and yet a number on the device decides, and behind sums from several devices.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    finish_step_kernel(const __grid_constant__ FinishArguments finish) {
  if (finish.fills_coefficients != 0) fill_coefficients<void>(finish);
  finish_step<true>(finish);
}

// Alone behind sums from several devices.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    finish_rule_kernel(const __grid_constant__ FinishRuleArguments finish) {
  finish_rule<true>(finish);
}

}  // namespace

Launchers find_launchers(const char* rule, const Bucket& bucket) {
  Launchers launchers;
  for_each_rule(Rules{}, [&](auto each, int32_t) {
    using Rule = typename decltype(each)::type;
    if (std::strcmp(rule, Rule::kName) == 0) launchers = functor_launchers<typename Rule::Functor>(bucket);
  });
  visit_dtypes(bucket.parameter_dtype, bucket.parameter_dtype, [&](auto gradient, auto) {
    using T = typename decltype(gradient)::type;
    launchers.raw_norm = norm_launch<raw_norm_kernel<T>, FinishArguments>();
    launchers.row_norm = norm_launch<row_norm_kernel<T>, FinishArguments>();
  });
  return launchers;
}

void launch_finish(const FinishArguments& arguments, void* stream) {
  TORCHCLIP_LAUNCH(finish_step_kernel, 1, kThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

void launch_finish_rule(const FinishRuleArguments& arguments, void* stream) {
  TORCHCLIP_LAUNCH(finish_rule_kernel, 1, kThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

}  // namespace torchclip::cuda
