// Run by test_cuda_passes.py: the finish alone, which makes the coefficients of every rule from numbers on the device,
// and uploads. Prints what differs; exits with 0 when nothing does.
#include <numeric>

#include "cuda_finish_check.h"
#include "cuda_rule_check.h"
#include "step/make_coefficients.h"
#if defined(TORCHCLIP_CUDA_EMULATOR)
#include "emulator/control.h"
#endif

namespace torchclip::cuda {
namespace {

constexpr size_t kSets = 3;
constexpr double kStep = 7;  // taken before

struct Case {
  const char* name;
  bool in_memory;  // the table of groups
  float found_inf;
  double lookahead_k;
};
constexpr Case kCases[] = {{"plain", false, 0, 0}, {"in_memory", true, 0, 4}, {"skipped", false, -3, 5}};

// Numbers of state of three parameters, of which the middle one keeps them in double and has just been made.
struct State {
  std::vector<CoefficientSource> sources;
  double before[kSets][kMaxScalars] = {};
  int32_t* fresh = on_device(std::vector<int32_t>{0, 1, 1, 1});

  template <class Rule>
  static State of() {
    State state;
    state.sources.resize(kSets);
    for (size_t set = 0; set < kSets; ++set) {
      CoefficientSource& source = state.sources[set];
      source.group = set == 2 ? 1 : 0;
      source.clip_unit = source.rule_unit = -1;
      source.fresh = set == 2 ? -1 : static_cast<int32_t>(set);
      for (size_t i = 0; i < Rule::kScalars; ++i) {
        double& value = state.before[set][i] = i == 0 ? 2.0 * static_cast<double>(set) : 0.5;  // the first counts steps
        source.scalar_is_double[i] = set == 1 ? 1 : 0;
        source.scalars[i] = set == 1 ? static_cast<void*>(on_device(std::vector<double>{value}))
                                     : on_device(std::vector<float>{static_cast<float>(value)});
      }
    }
    return state;
  }

  double scalar(size_t set, size_t i) const {
    void* const place = sources[set].scalars[i];
    return set == 1 ? number(static_cast<double*>(place)) : number(static_cast<float*>(place));
  }
};

// The second group's lr is a tensor.
template <class Rule>
std::vector<GroupNumbers> groups_of(const typename Rule::Hyperparameters& hyperparameters) {
  std::vector<GroupNumbers> groups(2, group_of_rule<Rule>(hyperparameters, 0.0625));
  groups[1].decoupled = groups[1].maximize = 1;
  groups[1].lr = numbers_on_device(1, 0.03125);
  groups[1].lr_is_double = 1;
  return groups;
}

Modifiers modifiers_of(const Case& test) {
  Modifiers modifiers;
  modifiers.gradient_noise = 1;
  modifiers.noise_eta = 0.3;
  modifiers.noise_gamma = 0.55;
  modifiers.step_size = static_cast<double>(StepSizeKind::kLoss);
  modifiers.clip = static_cast<double>(ClipKind::kValue);
  modifiers.limit = 0.5;
  modifiers.lookahead_k = test.lookahead_k;
  return modifiers;
}

// One set of coefficients, and what is left of the parameter's numbers of state.
template <class Rule>
void expect_set(size_t set, const Coefficients& made, const State& state,
                typename Rule::Hyperparameters hyperparameters, double step_size, const Case& test) {
  const bool second = state.sources[set].group == 1;
  if (second) hyperparameters.lr = 0.03125;
  Coefficients wanted =
      make_coefficients(hyperparameters.lr, 0.0625, second, second, modifiers_of(test), kStep + 1, 0.125);
  wanted.pipeline.gradient_scale *= step_size;
  wanted.pipeline.value_limit *= step_size;
  double scalars[kMaxScalars];
  std::copy(state.before[set], state.before[set] + kMaxScalars, scalars);
  const auto coefficients = Rule::coefficients(hyperparameters, scalars, set == 1, DirectionNorms{});
  TORCHCLIP_EXPECT(std::memcmp(&made.pipeline, &wanted.pipeline, sizeof(wanted.pipeline)) == 0 &&
                       std::memcmp(made.rule, &coefficients, sizeof(coefficients)) == 0,
                   "%s %s: set %zu", Rule::kName, test.name, set);
  for (size_t i = 0; i < Rule::kScalars; ++i) {
    const double value = test.found_inf != 0 ? state.before[set][i] : scalars[i];
    TORCHCLIP_EXPECT(state.scalar(set, i) == (set == 1 ? value : static_cast<float>(value)), "%s %s: scalar %zu of %zu",
                     Rule::kName, test.name, i, set);
  }
}

template <class Rule>
void run(typename Rule::Hyperparameters hyperparameters, const Case& test) {
  Numbers numbers;
  numbers.grad_scale = on_device(std::vector<float>{8.0f});
  numbers.found_inf = on_device(std::vector<float>{test.found_inf});
  FinishArguments finish = finish_with(modifiers_of(test), numbers);
  const State state = State::of<Rule>();
  const std::vector<GroupNumbers> groups = groups_of<Rule>(hyperparameters);
  finish.coefficients.rule = kPosition<Rule>;
  make_coefficients_from(finish, state.sources);
  finish.coefficients.fresh = state.fresh;
  if (test.in_memory) finish.coefficients.groups = on_device(groups);
  if (!test.in_memory) std::copy(groups.begin(), groups.end(), finish.coefficients.inline_groups);
  launch_finish(finish, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const bool skips = test.found_inf != 0;
  const StepNumbers after = number(numbers.numbers);
  TORCHCLIP_EXPECT(
      after.step == kStep + 1 && (after.skip != 0) == skips && (after.synchronises != 0) == (test.lookahead_k == 4),
      "%s %s: the step's numbers", Rule::kName, test.name);
  TORCHCLIP_EXPECT(number(numbers.step) == kStep + (skips ? 0 : 1), "%s %s: steps", Rule::kName, test.name);
  const double step_size = number(numbers.lr_scale);
  TORCHCLIP_EXPECT(step_size == 1.0 / std::sqrt(4 + 1.5), "%s %s: step size", Rule::kName, test.name);
  const std::vector<int32_t> fresh = skips ? std::vector<int32_t>{0, 1, 1, 1} : std::vector<int32_t>{0, 0, 1, 1};
  TORCHCLIP_EXPECT(same_bits(on_host(state.fresh, 4), fresh), "%s %s: fresh", Rule::kName, test.name);
  const std::vector<Coefficients> sets = on_host(finish.coefficients.sets, kSets);
  for (size_t set = 0; set < kSets; ++set) expect_set<Rule>(set, sets[set], state, hyperparameters, step_size, test);
}

void run_rules(const Case& test) {
  run<Sgd>({0.1, 0.9, 0.5, 1}, test);
  run<NormalizedSgd>({0.1, 0.9, 1e-6}, test);
  run<MixClip>({0.1, 0.9, 2.0, 0.7, 1}, test);
  run<Adam>({0.1, 0.9, 0.99, 1e-8, 0}, test);
  run<NAdam>({0.1, 0.9, 0.99, 1e-8, 4e-3}, test);
  run<RAdam>({0.1, 0.9, 0.99, 1e-8}, test);
  run<RMSprop>({0.1, 0.99, 1e-8, 0.9, 1}, test);
  run<Adagrad>({0.1, 0.01, 1e-10}, test);
  run<AdaGradNorm>({0.1, 0.9}, test);
  run<Grda>({0.1, 0.005, 0.51}, test);
  run<Lion>({0.1, 0.9, 0.99}, test);
  run<LinBreg>({0.1, 0.3, 0.8, 0.9}, test);
  run<AdaBreg>({0.1, 0.3, 0.8, 0.9, 0.99, 1e-8}, test);
}

void test_uploads() {
  for (const size_t bytes : {0, 4, 8, 12, 1000, 16384, 16388, 70004}) {
    std::vector<unsigned char> host(bytes), around(bytes + 16, 7);
    std::iota(host.begin(), host.end(), static_cast<unsigned char>(bytes));
    unsigned char* const device = on_device(around);
    upload(device + 8, host.data(), static_cast<int64_t>(bytes), nullptr);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    std::copy(host.begin(), host.end(), around.begin() + 8);
    TORCHCLIP_EXPECT(same_bits(on_host(device, around.size()), around), "an upload of %zu bytes", bytes);
  }
}

void test_device() {
  TORCHCLIP_EXPECT(unavailable_reason().empty(), "a reason: %s", unavailable_reason().c_str());
  TORCHCLIP_EXPECT(device_info(0).cache_bytes > 0, "the size of the cache");
  TORCHCLIP_EXPECT(!is_capturing(nullptr), "a stream that captures nothing");
  TORCHCLIP_EXPECT(versions().driver >= 12000 && versions().runtime >= 12000, "versions");
}

#if defined(TORCHCLIP_CUDA_EMULATOR)
void expect_reason(const std::vector<const char*>& words) {
  const std::string reason = unavailable_reason();
  for (const char* const word : words)
    TORCHCLIP_EXPECT(reason.find(word) != std::string::npos, "\"%s\" is not in \"%s\"", word, reason.c_str());
  TORCHCLIP_EXPECT(cudaGetLastError() == cudaSuccess, "a reason leaves an error behind");
}

void test_reasons() {
  torchclip_emulator_set_driver_version(12020);
  expect_reason({"12.2", "13.0", "update the driver"});
  torchclip_emulator_set_driver_version(0);
  expect_reason({"no NVIDIA driver"});
  torchclip_emulator_set_driver_version(13000);
  torchclip_emulator_set_devices(0);
  expect_reason({"no GPU", "CUDA_VISIBLE_DEVICES"});
  torchclip_emulator_set_devices(2);
  TORCHCLIP_EXPECT(unavailable_reason().empty() && torchclip_emulator_current_device() == 0, "two devices");
}
#endif

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip::cuda;
  for (const Case& test : kCases) run_rules(test);
  test_uploads();
  test_device();
#if defined(TORCHCLIP_CUDA_EMULATOR)
  test_reasons();
#endif
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
