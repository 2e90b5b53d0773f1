// The passes that know no rule: norms of gradients, and the finishes alone.
#include "launchers.cuh"

namespace torchclip::cuda {
namespace {

// Alone where nothing is measured and yet a number on the device decides, and behind sums from several devices.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    finish_step_kernel(const __grid_constant__ FinishArguments finish) {
  if (finish.makes_rows != 0) make_rows<void>(finish);
  finish_step<true>(finish);
}

// Alone behind sums from several devices.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    finish_rule_kernel(const __grid_constant__ FinishRuleArguments finish) {
  finish_rule<true>(finish);
}

template <class T>
Launchers launchers_for_gradients() {
  Launchers launchers;
  launchers.raw_norm = norm_launch<raw_norm_kernel<T>, FinishArguments>();
  launchers.row_norm = norm_launch<row_norm_kernel<T>, FinishArguments>();
  return launchers;
}

}  // namespace

Launchers gradient_launchers(DType dtype) {
  Launchers launchers;
  visit_dtypes(dtype, dtype,
               [&](auto gradient, auto) { launchers = launchers_for_gradients<typename decltype(gradient)::type>(); });
  return launchers;
}

void launch_finish(const FinishArguments& arguments, void* stream) {
  TORCHCLIP_LAUNCH(finish_step_kernel, 1, kThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

void launch_finish_rule(const FinishRuleArguments& arguments, void* stream) {
  TORCHCLIP_LAUNCH(finish_rule_kernel, 1, kThreads, 0, static_cast<cudaStream_t>(stream), arguments);
}

}  // namespace torchclip::cuda
