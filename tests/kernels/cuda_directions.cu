// Run by test_cuda_passes.py: the norms that rules take of their own directions, and the coefficients that come
// of them, beside plain sums in double. Prints what differs; exits with 0 when nothing does.
#include "cuda/finish_rule.cuh"
#include "cuda_rule_check.h"

namespace torchclip::cuda {
namespace {

// Tensors in three units, the second of which has none: a group without gradients.
struct Workload {
  std::vector<DeviceTensor> tensors;
  std::vector<const void*> gradients;
  std::vector<DeviceChunk> chunks;
  std::vector<int32_t> unit_chunks;
  double gradient[3] = {}, direction[3] = {};  // sums of squares
};

Coefficients test_coefficients(double weight_decay, double momentum) {
  Coefficients coefficients{};
  coefficients.pipeline = {-1.0, INFINITY, 0.0, weight_decay, 1.0};
  coefficients.rule[0] = momentum;
  coefficients.rule[1] = momentum == 0 ? 1.0 : 1 - momentum;
  return coefficients;
}

template <class T, class S>
Workload make_workload(const Coefficients& coefficients, bool has_momentum) {
  std::mt19937 generator(5);
  Workload work;
  std::vector<int32_t> units;
  for (const int64_t numel : {1, 1024, 3000, 9, 5000}) {
    const int32_t unit = work.tensors.size() < 3 ? 0 : 2;
    const DirectionTensor tensor =
        add_tensor<T, S>(generator, numel, coefficients, has_momentum, work.tensors, work.gradients);
    work.gradient[unit] += sum_of_squares(tensor.seen);
    work.direction[unit] += sum_of_squares(tensor.direction);
    work.tensors.back().coefficients = unit / 2;
    units.push_back(unit);
  }
  work.chunks = chunks_of(work.tensors);
  for (int32_t unit = 0; unit <= 3; ++unit)
    work.unit_chunks.push_back(
        static_cast<int32_t>(std::count_if(work.chunks.begin(), work.chunks.end(), [&](const DeviceChunk& chunk) {
          return units[static_cast<size_t>(chunk.tensor)] < unit;
        })));
  return work;
}

// Who makes the pipeline's part of the coefficients, and how many devices there are.
enum class Around { kAlone, kAfterPolicy, kSkipped, kTwoDevices };

struct Case {
  double momentum;
  bool decays;
  Around around;
};

template <class Rule>
FinishRuleArguments finish_of(const Workload& work, typename Rule::Hyperparameters hyperparameters,
                              const Coefficients& coefficients) {
  FinishRuleArguments finish{};
  finish.sums = {on_device(std::vector<Partial>(work.chunks.size())), on_device(work.unit_chunks), 3};
  finish.grad_norm = numbers_on_device(3);
  finish.direction_norm = numbers_on_device(3);
  finish.clip_factor = numbers_on_device(3);
  finish.counters = numbers_on_device(4, 0.0);
  finish.blocks_done = on_device(std::vector<uint32_t>{0});
  finish.coefficients.rule = kPosition<Rule>;
  finish.coefficients.count = 2;
  std::vector<CoefficientSource> sources(2);
  for (int32_t index = 0; index < 2; ++index) {
    sources[static_cast<size_t>(index)].rule_unit = 2 * index;
    sources[static_cast<size_t>(index)].group = index;
    sources[static_cast<size_t>(index)].fresh = -1;
  }
  finish.coefficients.sources = on_device(sources);
  finish.coefficients.sets = on_device(std::vector<Coefficients>{coefficients, coefficients});
  finish.coefficients.inline_groups[0] = group_of_rule<Rule>(hyperparameters, coefficients.pipeline.weight_decay);
  finish.coefficients.inline_groups[0].maximize = 1;
  finish.coefficients.inline_groups[1] = finish.coefficients.inline_groups[0];
  finish.coefficients.inline_groups[1].hyperparameters[0] = 7;  // what counts is on the device
  finish.coefficients.inline_groups[1].lr = on_device(std::vector<float>{0.125f});
  if (!Rule::kSumsNorms) return finish;
  // The second unit has no sum anywhere; the third one's is a float.
  finish.rule_sums =
      on_device(std::vector<void*>{numbers_on_device(1, 2.0), nullptr, on_device(std::vector<float>{4})});
  finish.sum_is_double = on_device(std::vector<int32_t>{1, 0, 0});
  return finish;
}

template <class Rule>
void expect_results(const Workload& work, const FinishRuleArguments& finish, const Coefficients& before,
                    const Case& test) {
  const auto gradient = on_host(finish.grad_norm, 3), direction = on_host(finish.direction_norm, 3);
  const auto factors = on_host(finish.clip_factor, 3);
  const std::vector<Coefficients> sets = on_host(finish.coefficients.sets, 2);
  const bool skips = test.around == Around::kSkipped;
  bool clips = false;
  for (const int unit : {0, 1, 2}) {
    TORCHCLIP_EXPECT(near(gradient[unit], std::sqrt(work.gradient[unit])), "%s: gradient norm %d", Rule::kName, unit);
    TORCHCLIP_EXPECT(near(direction[unit], std::sqrt(work.direction[unit])), "%s: direction norm %d", Rule::kName,
                     unit);
    if (unit == 1) continue;
    typename Rule::Hyperparameters hyperparameters;
    std::memcpy(&hyperparameters, finish.coefficients.inline_groups[unit / 2].hyperparameters, sizeof(hyperparameters));
    if (unit == 2) hyperparameters.lr = 0.125;
    DirectionNorms norms{gradient[unit], direction[unit]};
    if constexpr (Rule::kSumsNorms) {
      void* const place = on_host(finish.rule_sums, 3)[static_cast<size_t>(unit)];
      const double old = unit == 0 ? 2 : 4, wanted = old + (skips ? 0 : work.gradient[unit]);
      const double sum = unit == 0 ? number(static_cast<double*>(place)) : number(static_cast<float*>(place));
      TORCHCLIP_EXPECT(near(sum, wanted), "sum %d: %g, wanted %g", unit, sum, wanted);
      norms.root_factor = factors[unit];
      TORCHCLIP_EXPECT(near(factors[unit], 1 / std::sqrt(old + work.gradient[unit])), "root %d", unit);
    }
    const auto wanted = Rule::coefficients(hyperparameters, nullptr, false, norms);
    const Coefficients& coefficients = sets[static_cast<size_t>(unit / 2)];
    TORCHCLIP_EXPECT(std::memcmp(&wanted, coefficients.rule, sizeof(wanted)) == 0, "%s: coefficients of unit %d",
                     Rule::kName, unit);
    TORCHCLIP_EXPECT(std::memcmp(&coefficients.pipeline, &before.pipeline, sizeof(coefficients.pipeline)) == 0,
                     "%s: pipeline", Rule::kName);
    TORCHCLIP_EXPECT(factors[unit] == Rule::direction_factor(hyperparameters, norms), "%s: factor", Rule::kName);
    clips = clips || factors[unit] < 1;
  }
  TORCHCLIP_EXPECT(factors[1] == 1 || test.around == Around::kTwoDevices, "%s: an empty unit's factor", Rule::kName);
  const std::vector<double> counted{skips ? 0.0 : 1.0, !skips && clips ? 1.0 : 0.0};
  TORCHCLIP_EXPECT(same_bits(on_host(finish.counters, 2), counted), "%s: counters", Rule::kName);
}

template <class Rule, class T, class S>
void run(DType dtype, DType state, typename Rule::Hyperparameters hyperparameters, const Case& test) {
  const Coefficients coefficients = test_coefficients(test.decays ? 0.25 : 0.0, test.momentum);
  const unsigned slots = test.momentum != 0 ? 1 : 0, stages = test.decays ? kCoupledDecay : 0u;
  const Workload work = make_workload<T, S>(coefficients, test.momentum != 0);
  FinishRuleArguments finish = finish_of<Rule>(work, hyperparameters, coefficients);
  PassArguments arguments{};
  arguments.tensors = on_device(work.tensors);
  arguments.chunks = on_device(work.chunks);
  arguments.chunk_count = static_cast<int64_t>(work.chunks.size());
  arguments.partials = const_cast<Partial*>(finish.sums.partials);
  arguments.stages = stages;
  set_gradients(arguments, work.gradients, test.decays);
  set_coefficients(arguments, {coefficients, coefficients}, test.decays);
  if (test.around == Around::kAlone) {
    finish.coefficients.sets = on_device(std::vector<Coefficients>(2));
  } else {
    const int32_t skip = test.around == Around::kSkipped ? 1 : 0;
    arguments.numbers = finish.numbers = on_device(std::vector<StepNumbers>{{1, skip, 0}});
  }
  UnitSum* const sets = on_device(std::vector<UnitSum>(6));
  if (test.around == Around::kTwoDevices) finish.sums.write_to = sets;
  const auto [launch, blocks] = find_launchers(Rule::kName, {0, dtype, state, slots, stages}).direction_norm;
  finish.blocks = blocks(arguments.chunk_count);
  launch(arguments, finish, finish.blocks, nullptr);
  if (test.around == Around::kTwoDevices) {
    finish.sums = {nullptr, nullptr, 3, 2, sets};
    launch_finish_rule(finish, nullptr);
  }
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  TORCHCLIP_EXPECT(number(finish.blocks_done) == 0, "blocks_done");
  expect_results<Rule>(work, finish, coefficients, test);
}

template <class T, class S>
void run_rules(DType dtype, DType state) {
  constexpr Case kCases[] = {{0.0, false, Around::kAlone},
                             {0.75, true, Around::kAlone},
                             {0.75, false, Around::kAfterPolicy},
                             {0.0, true, Around::kSkipped},
                             {0.75, false, Around::kTwoDevices}};
  for (const Case& test : kCases) {
    run<NormalizedSgd, T, S>(dtype, state, {0.1, test.momentum, 1e-6}, test);
    run<MixClip, T, S>(dtype, state, {0.1, test.momentum, 2.0, 0.7, 1}, test);
    run<AdaGradNorm, T, S>(dtype, state, {0.1, test.momentum}, test);
  }
}

__global__ void count_kernel(const __grid_constant__ FinishRuleArguments finish) { count_step(finish); }

// Whichever thread finds the one factor below 1, and whenever it does.
void test_counts() {
  constexpr int kUnits = 2 * kThreads;
  for (int clipped = 1; clipped < kUnits; clipped += 37) {
    std::vector<double> factors(kUnits, 1.0);
    factors[static_cast<size_t>(clipped)] = 0.5;
    FinishRuleArguments finish{};
    finish.sums.units = kUnits;
    finish.clip_factor = on_device(factors);
    finish.counters = numbers_on_device(4, 0.0);
    TORCHCLIP_LAUNCH(count_kernel, 1, kThreads, 0, nullptr, finish);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    TORCHCLIP_EXPECT(same_bits(on_host(finish.counters, 2), {1.0, 1.0}), "unit %d is clipped: counters", clipped);
  }
}

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip;
  using namespace torchclip::cuda;
  run_rules<float, float>(DType::kFloat32, DType::kFloat32);
  run_rules<double, double>(DType::kFloat64, DType::kFloat64);
  run_rules<BFloat16, float>(DType::kBFloat16, DType::kFloat32);
  run_rules<Float16, Float16>(DType::kFloat16, DType::kFloat16);
  test_counts();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
