// Run by tests/test_cuda_passes.py: the norms that rules take of their own directions, and the coefficients that come
// of them, beside plain sums in double. Prints what differs; exits with 0 when nothing does.
#include <algorithm>
#include <cmath>
#include <random>

#include "coefficients.h"
#include "cuda/passes.h"
#include "cuda_testing.h"
#include "rules/registry.h"

namespace torchclip::cuda {
namespace {

// Tensors in three units, the second of which has none: a group without gradients.
struct Workload {
  std::vector<DeviceTensor> tensors;
  std::vector<int32_t> units;
  std::vector<DeviceChunk> chunks;
  std::vector<int32_t> unit_chunks;
  double gradient[3] = {}, direction[3] = {};  // sums of squares
};

Row row_of(unsigned stages, double momentum) {
  Row row{};
  row.pipeline = {0.5, INFINITY, 0.0, (stages & kCoupledDecay) != 0 ? 0.25 : 0.0, 1.0};
  row.rule[0] = momentum;
  row.rule[1] = 1 - momentum;
  return row;
}

template <class T, class S>
Workload make_workload(const Row& row, unsigned stages, bool has_momentum) {
  using C = ComputeType<T>;
  std::mt19937 generator(5);
  std::uniform_real_distribution<double> uniform(-1, 1);
  Workload work;
  for (const int64_t numel : {1, 1024, 3000, 9, 5000}) {
    const int32_t unit = work.tensors.size() < 3 ? 0 : 2;
    std::vector<T> parameter, gradient;
    std::vector<S> momentum_buffer;
    const auto pipeline = narrow<C>(row.pipeline);
    for (int64_t i = 0; i < numel; ++i) {
      parameter.push_back(store<T>(static_cast<C>(uniform(generator))));
      gradient.push_back(store<T>(static_cast<C>(uniform(generator))));
      momentum_buffer.push_back(store<S>(static_cast<C>(uniform(generator))));
      C seen = load(gradient.back()) * pipeline.gradient_scale;
      if ((stages & kCoupledDecay) != 0) seen += pipeline.weight_decay * load(parameter.back());
      const C averaged =
          static_cast<C>(row.rule[0]) * load(momentum_buffer.back()) + static_cast<C>(row.rule[1]) * seen;
      work.gradient[unit] += square(static_cast<double>(seen));
      work.direction[unit] += square(static_cast<double>(has_momentum ? averaged : seen));
    }
    DeviceTensor tensor{};
    tensor.pointer[kParameter] = on_device(parameter);
    tensor.pointer[kGradient] = on_device(gradient);
    tensor.pointer[kState0] = on_device(momentum_buffer);
    tensor.numel = numel;
    tensor.member = static_cast<int32_t>(work.tensors.size());
    tensor.row = unit / 2;
    for (int64_t begin = 0; begin < numel; begin += kChunkGrain)
      work.chunks.push_back({tensor.member, static_cast<int32_t>(std::min(kChunkGrain, numel - begin)), begin});
    work.tensors.push_back(tensor);
    work.units.push_back(unit);
  }
  for (int32_t unit = 0; unit <= 3; ++unit)
    work.unit_chunks.push_back(
        static_cast<int32_t>(std::count_if(work.chunks.begin(), work.chunks.end(), [&](const DeviceChunk& chunk) {
          return work.units[static_cast<size_t>(chunk.tensor)] < unit;
        })));
  return work;
}

bool near(double a, double b) { return std::fabs(a - b) <= 1e-6 * std::fabs(b); }

template <class Rule, class T, class S>
void run(SelfClipping kind, DType dtype, DType state, typename Rule::Hyperparameters hyperparameters, double momentum,
         unsigned stages) {
  const Row row = row_of(stages, momentum);
  const unsigned slots = momentum != 0 ? 1 : 0;
  const Workload work = make_workload<T, S>(row, stages, momentum != 0);
  RuleSource source{0, 0, {}};
  std::memcpy(source.hyperparameters, &hyperparameters, sizeof(hyperparameters));
  std::vector<RuleSource> sources{source, source};
  sources[1].unit = 2;
  PassArguments arguments{};
  arguments.tensors = on_device(work.tensors);
  arguments.chunks = on_device(work.chunks);
  arguments.chunk_count = static_cast<int64_t>(work.chunks.size());
  arguments.rows = on_device(std::vector<Row>{row, row});
  arguments.partials = on_device(std::vector<Partial>(work.chunks.size()));
  arguments.stages = stages;
  const Launchers launchers = find_launchers(Rule::kName, {0, dtype, state, slots, stages});
  const uint32_t blocks = launchers.direction_blocks(arguments.chunk_count);
  double* const sums = on_device(std::vector<double>{2.0, 3.0, 4.0});
  const auto numbers = [] { return on_device(std::vector<double>(3, -1.0)); };
  const FinishRuleArguments finish{arguments.partials,
                                   on_device(work.unit_chunks),
                                   3,
                                   2,
                                   kind,
                                   on_device(sources),
                                   const_cast<Row*>(arguments.rows),
                                   numbers(),
                                   numbers(),
                                   numbers(),
                                   sums,
                                   nullptr,
                                   on_device(std::vector<uint32_t>{0}),
                                   blocks};
  launchers.direction_norm(arguments, finish, blocks, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const auto gradient = on_host(finish.grad_norm, 3), direction = on_host(finish.direction_norm, 3);
  const auto factors = on_host(finish.clip_factor, 3), totals = on_host(sums, 3);
  const std::vector<Row> rows = on_host(finish.rows, 2);
  for (const int unit : {0, 1, 2}) {
    TORCHCLIP_EXPECT(near(gradient[unit], std::sqrt(work.gradient[unit])), "%s: gradient norm %d", Rule::kName, unit);
    TORCHCLIP_EXPECT(near(direction[unit], std::sqrt(work.direction[unit])), "%s: direction norm %d", Rule::kName,
                     unit);
    if (unit == 1) continue;
    DirectionNorms norms{gradient[unit], direction[unit]};
    if (Rule::kSumsNorms) norms.root_factor = 1.0 / std::sqrt(totals[unit]);
    const auto wanted = Rule::coefficients(hyperparameters, nullptr, false, norms);
    TORCHCLIP_EXPECT(std::memcmp(&wanted, rows[unit / 2].rule, sizeof(wanted)) == 0, "%s: coefficients of unit %d",
                     Rule::kName, unit);
    TORCHCLIP_EXPECT(factors[unit] == Rule::direction_factor(hyperparameters, norms), "%s: factor", Rule::kName);
  }
  const double first[] = {2, 3, 4};
  for (const int unit : {0, 1, 2})
    TORCHCLIP_EXPECT(near(totals[unit], first[unit] + (Rule::kSumsNorms ? work.gradient[unit] : 0)), "%s: sum %d",
                     Rule::kName, unit);
}

template <class T, class S>
void run_rules(DType dtype, DType state) {
  for (const unsigned stages : {0u, static_cast<unsigned>(kCoupledDecay)}) {
    for (const double momentum : {0.0, 0.75}) {
      run<NormalizedSgd, T, S>(SelfClipping::kNormalizedSgd, dtype, state, {0.1, momentum, 1e-6}, momentum, stages);
      run<MixClip, T, S>(SelfClipping::kMixClip, dtype, state, {0.1, momentum, 2.0, 0.7, 1}, momentum, stages);
      run<AdaGradNorm, T, S>(SelfClipping::kAdaGradNorm, dtype, state, {0.1, momentum}, momentum, stages);
    }
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
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
