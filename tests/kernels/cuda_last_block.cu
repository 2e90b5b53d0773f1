// Run by test_cuda_passes.py: the block that is_last_block finds sees what every thread of every other block has
// written, and the count begins anew. Prints what differs; exits with 0 when nothing does.
#include "cuda/reduce.cuh"
#include "cuda_testing.h"

namespace torchclip::cuda {
namespace {

// written: [gridDim.x, kThreads]; sums: [kThreads], of the columns.
__global__ void sum_columns_kernel(double* written, double* sums, uint32_t* blocks_done) {
  written[blockIdx.x * kThreads + threadIdx.x] = 1.0 + blockIdx.x + threadIdx.x;
  if (!is_last_block(blocks_done, gridDim.x)) return;
  double sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) sum += written[block * kThreads + threadIdx.x];
  sums[threadIdx.x] = sum;
}

void test_columns(unsigned blocks, uint32_t* blocks_done) {
  double* const written = numbers_on_device(size_t{blocks} * kThreads, 0.0);
  double* const sums = numbers_on_device(kThreads);
  TORCHCLIP_LAUNCH(sum_columns_kernel, blocks, kThreads, 0, nullptr, written, sums, blocks_done);
  const std::vector<double> found = on_host(sums, kThreads);
  int wrong = 0;
  for (size_t i = 0; i < found.size(); ++i) wrong += found[i] != blocks * (1.0 + i) + blocks * (blocks - 1) / 2.0;
  TORCHCLIP_EXPECT(wrong == 0, "%u blocks: %d sums are wrong", blocks, wrong);
  TORCHCLIP_EXPECT(number(blocks_done) == 0, "%u blocks: %u are still counted", blocks, number(blocks_done));
}

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip::cuda;
  uint32_t* const blocks_done = on_device(std::vector<uint32_t>(1));
  for (unsigned blocks = 1; blocks <= 40; ++blocks) test_columns(blocks, blocks_done);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
