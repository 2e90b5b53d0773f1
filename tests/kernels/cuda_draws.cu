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
__global__ void draw_kernel(const __grid_constant__ PassArguments arguments, DrawPlace place, int64_t element,
                            float* normals, int* keeps) {
  const int first = static_cast<int>(threadIdx.x) * kCount;
  const ThreadDraws<kEveryStage, kCount> draws(arguments, place, element + first);
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

// `place`: of neighbours that are such in the whole tensor too.
template <int kCount>
void test_draws(double step, const DrawPlace& place, int64_t element) {
  PassArguments arguments{};
  arguments.numbers = on_device(std::vector<StepNumbers>{{step, 0, 0}});
  arguments.extras.seed = kSeed;
  arguments.extras.gradient_threshold = kThreshold;
  arguments.extras.lr_threshold = kLRThreshold;
  arguments.stages = kDrawnStages;
  float* const normals = on_device(std::vector<float>(kDraws * kCount));
  int* const keeps = on_device(std::vector<int>(kDraws * kCount));
  TORCHCLIP_LAUNCH((draw_kernel<kCount>), 1, kDraws, 0, nullptr, arguments, place, element, normals, keeps);
  const std::vector<float> drawn = on_host(normals, kDraws * kCount);
  const std::vector<int> kept = on_host(keeps, kDraws * kCount);
  const auto number = static_cast<uint32_t>(static_cast<uint64_t>(step));
  int wrong = 0;
  for (int i = 0; i < kDraws * kCount; ++i) {
    const int64_t own = place.of(element + i);
    const bool gradient = word(number, place.number, own, kGradientDropoutStream, own % 4) >= kThreshold;
    const bool is_taken = word(number, place.number, own, kLRDropoutStream, own % 4) >= kLRThreshold;
    wrong += drawn[static_cast<size_t>(i)] != normal_of(number, place.number, own);
    wrong += kept[static_cast<size_t>(i)] != ((gradient ? 1 : 0) | (is_taken ? 2 : 0));
  }
  TORCHCLIP_EXPECT(wrong == 0, "%d neighbours from element %lld of parameter %u at %lld in step %.0f: %d differ",
                   kCount, static_cast<long long>(element), place.number, static_cast<long long>(place.offset), step,
                   wrong);
}

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip::cuda;
  using torchclip::DrawPlace;
  constexpr int64_t kPast = int64_t{1} << 34;  // elements, past which a word of the counter is full
  for (const double step : {1.0, 257.0, 65793.0, 4294967298.0})
    for (const uint32_t parameter : {0u, 257u, 65793u})
      for (const int64_t element : {int64_t{0}, int64_t{3}, kPast - 66, kPast, 5 * kPast + 1}) {
        const DrawPlace place{parameter};
        test_draws<1>(step, place, element);
        test_draws<4>(step, place, element);
        test_draws<8>(step, place, element);
      }
  for (const int64_t offset : {int64_t{1}, kPast - 5}) {  // of a piece, and of pieces of 24 elements
    test_draws<1>(1.0, {3, offset, 0, 0}, 3);
    test_draws<8>(1.0, {3, offset, 0, 0}, 8);
    test_draws<1>(1.0, {3, offset, 5, 11}, 3);
    test_draws<4>(1.0, {3, offset, 24, 101}, 48);
    test_draws<8>(1.0, {3, offset, 24, 101}, 48);
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
