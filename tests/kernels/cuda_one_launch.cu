// Run by test_cuda_passes.py: a step in one cooperative launch leaves bit for bit what the norm pass and the
// update pass leave. Prints what differs; exits with 0 when nothing does.
#include "cuda_finish_check.h"
#include "cuda_rule_check.h"
#include "cuda_update_check.h"

namespace torchclip::cuda {
namespace {

// How the launches of a step are put together.
enum class Launched { kOnce, kTwice };

// What both are given.
struct Case {
  unsigned stages;
  bool synchronises;
  float found_inf;
};
constexpr Case kCases[] = {{0, false, 0}, {kCoupledDecay, true, 0}, {0, false, 1}};

template <class Functor, class T, class S>
struct Step {
  std::vector<TestTensor<Functor, T, S>> tensors;
  PassArguments arguments{};
  std::vector<int32_t> units;
  size_t chunks = 0;

  Step(unsigned slots, const Case& test) : tensors(awkward_tensors<Functor, T, S>(slots)) {
    const std::vector<DeviceTensor> table = table_of(tensors);
    const std::vector<DeviceChunk> list = chunks_of(table);
    chunks = list.size();
    arguments.tensors = on_device(table);
    arguments.chunks = on_device(list);
    arguments.chunk_count = static_cast<int64_t>(chunks);
    arguments.partials = on_device(std::vector<Partial>(chunks));
    arguments.pieces = 1;
    arguments.zeros = on_device(std::vector<int64_t>(chunks, -1));
    arguments.stages = test.stages;
    set_gradients(arguments, gradients_of(tensors), false);
    units = {0, static_cast<int32_t>(chunks)};
  }
};

// Whether two steps have left the same.
template <class Functor, class T, class S>
bool same(const Step<Functor, T, S>& a, const Step<Functor, T, S>& b, unsigned slots) {
  bool agree = true;
  for (size_t index = 0; index < a.tensors.size(); ++index) {
    const auto &first = a.tensors[index], &second = b.tensors[index];
    agree = agree && same_bits(first.laid_parameter.get(), second.laid_parameter.get()) &&
            same_bits(first.laid_slow.get(), second.laid_slow.get());
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((slots >> slot & 1u) != 0)
        agree = agree && same_bits(first.laid_state[slot].get(), second.laid_state[slot].get());
  }
  return agree && same_bits(on_host(a.arguments.zeros, a.chunks), on_host(b.arguments.zeros, b.chunks));
}

CoefficientSource only_source(double* scalars) {
  CoefficientSource source{};
  source.scalars[0] = scalars;
  source.scalars[1] = scalars + 1;
  source.scalar_is_double[0] = source.scalar_is_double[1] = 1;
  source.fresh = -1;
  return source;
}

// Clipped by the norm over all tensors.
template <class Rule, unsigned Slots, class T, class S>
auto clipped_step(DType dtype, DType state, typename Rule::Hyperparameters hyperparameters, const Case& test,
                  Launched launched) {
  Step<typename Rule::Functor, T, S> step(Slots, test);
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kNorm);
  modifiers.limit = 3;
  modifiers.lookahead_k = test.synchronises ? 2 : 0;
  modifiers.lookahead_alpha = 0.5;
  Numbers numbers;
  numbers.found_inf = on_device(std::vector<float>{test.found_inf});
  FinishArguments finish = finish_with(modifiers, numbers);
  measure_units(finish, step.units);
  finish.sums.partials = step.arguments.partials;
  finish.coefficients.rule = kPosition<Rule>;
  make_coefficients_from(finish, {only_source(numbers_on_device(2, 2.0))});
  finish.coefficients.inline_groups[0] = group_of_rule<Rule>(hyperparameters, 0.0625);
  step.arguments.coefficients = finish.coefficients.sets;
  step.arguments.numbers = numbers.numbers;
  const Launchers launchers = find_launchers(Rule::kName, {0, dtype, state, Slots, test.stages});
  const auto& norm = launched == Launched::kOnce ? launchers.norm_and_update : launchers.raw_norm;
  finish.blocks = norm.blocks(step.arguments.chunk_count + 1);
  norm.launch(step.arguments, finish, finish.blocks, nullptr);
  if (launched == Launched::kTwice) launchers.update(step.arguments, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  TORCHCLIP_EXPECT(number(finish.clip_factor) < 1 && number(numbers.blocks_done) == 0, "%s clips", Rule::kName);
  return step;
}

template <class Rule, unsigned Slots, class T, class S>
void test_clipped(DType dtype, DType state, typename Rule::Hyperparameters hyperparameters) {
  for (const Case& test : kCases) {
    const auto once = clipped_step<Rule, Slots, T, S>(dtype, state, hyperparameters, test, Launched::kOnce);
    const auto twice = clipped_step<Rule, Slots, T, S>(dtype, state, hyperparameters, test, Launched::kTwice);
    TORCHCLIP_EXPECT(same(once, twice, Slots), "%s stages %u: one launch differs from two", Rule::kName, test.stages);
    bool moved = false;
    for (const auto& tensor : once.tensors) moved = moved || !same_bits(tensor.laid_parameter.get(), tensor.parameter);
    TORCHCLIP_EXPECT(moved == (test.found_inf == 0), "%s stages %u: whether a step is taken", Rule::kName, test.stages);
  }
}

// A rule that clips itself, without a policy before it.
template <class Rule, unsigned Slots, class T, class S>
auto directed_step(DType dtype, DType state, typename Rule::Hyperparameters hyperparameters, const Case& test,
                   Launched launched) {
  Step<Momentum, T, S> step(Slots, test);
  FinishRuleArguments finish{};
  finish.sums = {step.arguments.partials, on_device(step.units), 1};
  finish.grad_norm = numbers_on_device(1);
  finish.direction_norm = numbers_on_device(1);
  finish.clip_factor = numbers_on_device(1);
  finish.blocks_done = on_device(std::vector<uint32_t>{0});
  finish.coefficients.rule = kPosition<Rule>;
  finish.coefficients.count = 1;
  finish.coefficients.sources = on_device(std::vector<CoefficientSource>{only_source(nullptr)});
  finish.coefficients.sets = on_device(std::vector<Coefficients>(1));
  finish.coefficients.inline_groups[0] = group_of_rule<Rule>(hyperparameters, 0.0625);
  Coefficients coefficients{};
  coefficients.pipeline = {1, INFINITY, 0, 0.0625, 1};
  coefficients.rule[0] = hyperparameters.momentum;
  coefficients.rule[1] = 1 - hyperparameters.momentum;
  set_coefficients(step.arguments, {coefficients}, false);
  const Launchers launchers = find_launchers(Rule::kName, {0, dtype, state, Slots, test.stages});
  const auto& norm = launched == Launched::kOnce ? launchers.direction_and_update : launchers.direction_norm;
  finish.blocks = norm.blocks(step.arguments.chunk_count);
  norm.launch(step.arguments, finish, finish.blocks, nullptr);
  if (launched == Launched::kTwice) {
    step.arguments.coefficients = finish.coefficients.sets;
    launchers.update(step.arguments, nullptr);
  }
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  TORCHCLIP_EXPECT(number(finish.direction_norm) > 0, "%s measures", Rule::kName);
  return step;
}

template <class Rule, unsigned Slots, class T, class S>
void test_directed(DType dtype, DType state, typename Rule::Hyperparameters hyperparameters) {
  for (const unsigned stages : {0u, static_cast<unsigned>(kCoupledDecay)}) {
    const Case test{stages, false, 0};
    const auto once = directed_step<Rule, Slots, T, S>(dtype, state, hyperparameters, test, Launched::kOnce);
    const auto twice = directed_step<Rule, Slots, T, S>(dtype, state, hyperparameters, test, Launched::kTwice);
    TORCHCLIP_EXPECT(same(once, twice, Slots), "%s stages %u: one launch differs from two", Rule::kName, stages);
  }
}

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip;
  using namespace torchclip::cuda;
  test_clipped<Sgd, 1, float, float>(DType::kFloat32, DType::kFloat32, {0.1, 0.9, 0, 0});
  test_clipped<Adam, 3, BFloat16, float>(DType::kBFloat16, DType::kFloat32, {0.1, 0.9, 0.99, 1e-2, 0});
  test_clipped<RMSprop, 3, double, double>(DType::kFloat64, DType::kFloat64, {0.1, 0.9, 1e-2, 0.9, 0});
  test_clipped<Grda, 1, Float16, float>(DType::kFloat16, DType::kFloat32, {0.1, 0.5, 0.5});
  test_directed<NormalizedSgd, 0, float, float>(DType::kFloat32, DType::kFloat32, {0.1, 0, 1e-6});
  test_directed<MixClip, 1, BFloat16, BFloat16>(DType::kBFloat16, DType::kBFloat16, {0.1, 0.75, 2, 0.7, 1});
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
