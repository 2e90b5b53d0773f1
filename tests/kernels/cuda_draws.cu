// Run by test_cuda_passes.py: what a thread draws for its elements, far into a parameter and into a run, beside
// counters that are written out. Prints what differs; exits with 0 when nothing does.
#include "cuda/draws.cuh"
#include "cuda_testing.h"

namespace torchclip::cuda {
namespace {

constexpr uint64_t kSeed = 0x123456789abcdef0u;
constexpr uint32_t kThreshold = 0x60000000u, kLRThreshold = 0xa0000000u;
constexpr int kDraws = 32;  // threads, each with kCount neighbours

// normals, keeps: [kDraws, kCount]; of the keeps bit 0 is that of the gradient and bit 1 that of the step.
template <int kCount>
__global__ void draw_kernel(const __grid_constant__ PassArguments arguments, int32_t parameter, int64_t element,
                            float* normals, int* keeps) {
  const int first = static_cast<int>(threadIdx.x) * kCount;
  const ThreadDraws<kEveryStage, kCount> draws(arguments, parameter, element + first);
  for (int lane = 0; lane < kCount; ++lane) {
    const Draws own = draws.at(lane);
    normals[first + lane] = own.normal;
    keeps[first + lane] = (own.keeps_gradient ? 1 : 0) | (own.keeps_step ? 2 : 0);
  }
}

uint32_t word(uint32_t step, uint32_t parameter, int64_t element, uint32_t stream, int64_t lane) {
  const auto quad = static_cast<uint64_t>(element) / 4;
  const Counter counter{
      {step, parameter, static_cast<uint32_t>(quad), stream + (static_cast<uint32_t>(quad >> 32) << 8)}};
  return philox4x32(kSeed, counter).word[lane];
}

float normal_of(uint32_t step, uint32_t parameter, int64_t element) {
  const int64_t lane = element % 4, pair = lane / 2 * 2;
  float first, second;
  unit_vector(word(step, parameter, element, kNoiseStream, pair + 1), first, second);
  const float radius = normal_radius(word(step, parameter, element, kNoiseStream, pair));
  return rounded_product(radius, lane == pair ? first : second);
}

template <int kCount>
void test_draws(double step, int32_t parameter, int64_t element) {
  PassArguments arguments{};
  arguments.numbers = on_device(std::vector<StepNumbers>{{step, 0, 0}});
  arguments.extras.seed = kSeed;
  arguments.extras.gradient_threshold = kThreshold;
  arguments.extras.lr_threshold = kLRThreshold;
  arguments.stages = kDrawnStages;
  float* const normals = on_device(std::vector<float>(kDraws * kCount));
  int* const keeps = on_device(std::vector<int>(kDraws * kCount));
  TORCHCLIP_LAUNCH((draw_kernel<kCount>), 1, kDraws, 0, nullptr, arguments, parameter, element, normals, keeps);
  const std::vector<float> drawn = on_host(normals, kDraws * kCount);
  const std::vector<int> kept = on_host(keeps, kDraws * kCount);
  const auto number = static_cast<uint32_t>(static_cast<uint64_t>(step));
  const auto place = static_cast<uint32_t>(parameter);
  int wrong = 0;
  for (int i = 0; i < kDraws * kCount; ++i) {
    const int64_t own = element + i;
    const bool gradient = word(number, place, own, kGradientDropoutStream, own % 4) >= kThreshold;
    const bool is_taken = word(number, place, own, kLRDropoutStream, own % 4) >= kLRThreshold;
    wrong += drawn[static_cast<size_t>(i)] != normal_of(number, place, own);
    wrong += kept[static_cast<size_t>(i)] != ((gradient ? 1 : 0) | (is_taken ? 2 : 0));
  }
  TORCHCLIP_EXPECT(wrong == 0, "%d neighbours from element %lld of parameter %d in step %.0f: %d differ", kCount,
                   static_cast<long long>(element), parameter, step, wrong);
}

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip::cuda;
  constexpr int64_t kPast = int64_t{1} << 34;  // elements, past which a word of the counter is full
  for (const double step : {1.0, 257.0, 65793.0, 4294967298.0})
    for (const int32_t parameter : {0, 257, 65793})
      for (const int64_t element : {int64_t{0}, int64_t{3}, kPast - 66, kPast, 5 * kPast + 1}) {
        test_draws<1>(step, parameter, element);
        test_draws<4>(step, parameter, element);
        test_draws<8>(step, parameter, element);
      }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
