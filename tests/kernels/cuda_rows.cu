// Run by test_cuda_passes.py: the passes that keep the rows of the leading dimension apart, and factors of rows
// in the update. Prints what differs; exits with 0 when nothing does.
#include <algorithm>

#include "cuda_finish_check.h"
#include "cuda_rule_check.h"
#include "cuda_update_check.h"
#include "policies.h"

namespace torchclip::cuda {
namespace {

// A tensor's rows and how many of them, or of the elements of one, a chunk takes.
struct Shape {
  int64_t count, inner, outer;
  int32_t rows;  // 0: parts of rows
};
// Many short rows, few long ones, parts of long ones, rows whose elements lie apart, the same in parts, more parts of a
// row than a warp has lanes, and no rows.
constexpr Shape kShapes[] = {{41, 27, 1, 16}, {3, 2001, 1, 3}, {2, 5001, 1, 0},  {5, 3, 700, 5}, {2, 9, 601, 0},
                             {70, 1, 40, 35}, {64, 32, 1, 9},  {1, 70001, 1, 0}, {0, 3000, 1, 0}};

struct Workload {
  std::vector<DeviceTensor> tensors;
  std::vector<const void*> gradients;
  std::vector<DirectionTensor> elements;
  std::vector<DeviceRowChunk> chunks;
  std::vector<DeviceLongRow> long_rows;
  int64_t rows = 0;
};

void add_chunks(Workload& work, int32_t tensor, const Shape& shape) {
  const auto partial = [&] { return static_cast<int32_t>(work.chunks.size()); };
  for (int64_t row = 0; shape.rows > 0 && row < shape.count; row += shape.rows)
    work.chunks.push_back(
        {tensor, static_cast<int32_t>(std::min<int64_t>(shape.rows, shape.count - row)), partial(), -1, row, 0, 0});
  const int64_t length = shape.inner * shape.outer;
  for (int64_t row = 0; shape.rows == 0 && row < std::max<int64_t>(shape.count, 1); ++row) {
    const int32_t long_row = shape.count == 0 ? -1 : static_cast<int32_t>(work.long_rows.size()), first = partial();
    for (int64_t begin = 0; begin < length; begin += 2 * kChunkGrain)
      work.chunks.push_back({tensor, 0, partial(), long_row, row, begin, std::min(2 * kChunkGrain, length - begin)});
    if (long_row >= 0) work.long_rows.push_back({tensor, first, partial() - first, row});
  }
}

template <class T, class S>
Workload make_workload(const Coefficients& coefficients, bool has_momentum) {
  std::mt19937 generator(11);
  Workload work;
  for (const Shape& shape : kShapes) {
    const int32_t index = static_cast<int32_t>(work.tensors.size());
    const int64_t numel = std::max<int64_t>(shape.count, 1) * shape.inner * shape.outer;
    work.elements.push_back(
        add_tensor<T, S>(generator, numel, coefficients, has_momentum, work.tensors, work.gradients, index % 3));
    DeviceTensor& tensor = work.tensors.back();
    tensor.rows = {shape.count, shape.count == 0 ? 1 : shape.inner};
    tensor.first_row = work.rows;
    tensor.sum_is_double = index % 2;
    tensor.sums = index % 2 != 0 ? static_cast<void*>(numbers_on_device(static_cast<size_t>(shape.count), 0.5))
                                 : on_device(std::vector<float>(static_cast<size_t>(shape.count), 0.5f));
    work.rows += shape.count;
    add_chunks(work, index, shape);
  }
  return work;
}

// Sums of squares of each row of all tensors, and of what has no rows.
std::vector<double> row_sums(const Workload& work, std::vector<double> DirectionTensor::* values,
                             const std::vector<double>& factors, double& rest) {
  std::vector<double> sums(static_cast<size_t>(work.rows));
  rest = 0;
  for (size_t index = 0; index < work.tensors.size(); ++index) {
    const DeviceTensor& tensor = work.tensors[index];
    for (size_t e = 0; e < work.elements[index].seen.size(); ++e) {
      if (tensor.rows.count == 0) {
        rest += square((work.elements[index].*values)[e]);
        continue;
      }
      const size_t row = static_cast<size_t>(tensor.first_row + tensor.rows.of(static_cast<int64_t>(e)));
      sums[row] += square((work.elements[index].*values)[e] * (factors.empty() ? 1 : factors[row]));
    }
  }
  return sums;
}

PassArguments pass_of(const Workload& work, Partial* partials) {
  PassArguments arguments{};
  arguments.tensors = on_device(work.tensors);
  arguments.row_chunks = on_device(work.chunks);
  arguments.chunk_count = static_cast<int64_t>(work.chunks.size());
  arguments.partials = partials;
  arguments.row_factors = numbers_on_device(static_cast<size_t>(work.rows));
  set_gradients(arguments, work.gradients, true);
  return arguments;
}

RowSums row_sums_of(const Workload& work, const PassArguments& arguments) {
  RowSums sums{};
  sums.tensors = arguments.tensors;
  sums.long_rows = on_device(work.long_rows);
  sums.long_row_count = static_cast<int32_t>(work.long_rows.size());
  sums.partials = arguments.partials;
  sums.row_factors = arguments.row_factors;
  return sums;
}

// AdaptiveGradientClip.
template <class T>
void test_clip(DType dtype) {
  const Workload work = make_workload<T, T>(Coefficients{}, false);
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kUnit);
  modifiers.limit = 0.9;
  modifiers.unit_eps = 1e-3;
  Numbers numbers;
  numbers.grad_scale = on_device(std::vector<float>{0.5f});
  FinishArguments finish = finish_with(modifiers, numbers);
  measure_units(finish, {0, static_cast<int32_t>(work.chunks.size())});
  const PassArguments arguments = pass_of(work, const_cast<Partial*>(finish.sums.partials));
  finish.row_sums = row_sums_of(work, arguments);
  const auto [launch, blocks] = find_launchers("sgd", {0, dtype, dtype, 0, kRowFactors}).row_norm;
  finish.blocks = blocks(arguments.chunk_count);
  launch(arguments, finish, finish.blocks, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  double total, clipped, unused;
  const std::vector<double> gradients = row_sums(work, &DirectionTensor::gradient, {}, total);
  const std::vector<double> weights = row_sums(work, &DirectionTensor::weight, {}, unused);
  const std::vector<double> factors = on_host(arguments.row_factors, gradients.size());
  total *= 4;  // the gradients are scaled
  clipped = total;
  for (size_t row = 0; row < factors.size(); ++row) {
    const double wanted = unit_clip_factor(2 * std::sqrt(gradients[row]), std::sqrt(weights[row]), 0.9, 1e-3);
    TORCHCLIP_EXPECT(near(factors[row], wanted), "row %zu: factor %g, wanted %g", row, factors[row], wanted);
    total += 4 * gradients[row];
    clipped += 4 * square(factors[row]) * gradients[row];
  }
  const double norm = number(finish.grad_norm), factor = number(finish.clip_factor);
  TORCHCLIP_EXPECT(near(norm, std::sqrt(total)), "norm %g, wanted %g", norm, std::sqrt(total));
  TORCHCLIP_EXPECT(near(factor, std::sqrt(clipped / total)), "factor %g", factor);
  TORCHCLIP_EXPECT(number(numbers.counters + 1) == 1, "counters");
}

// What the pass has left, beside plain sums.
void expect_steps(const Workload& work, const PassArguments& arguments, const FinishRuleArguments& finish,
                  const std::vector<double>& gradient_factors, bool skips) {
  double total, direction;
  const std::vector<double> seen = row_sums(work, &DirectionTensor::seen, gradient_factors, total);
  const std::vector<double> directions = row_sums(work, &DirectionTensor::direction, {}, direction);
  const std::vector<double> factors = on_host(arguments.row_factors, seen.size());
  for (size_t index = 0; index < work.tensors.size(); ++index) {
    const DeviceTensor& tensor = work.tensors[index];
    for (int64_t own = 0; own < tensor.rows.count; ++own) {
      const size_t place = static_cast<size_t>(tensor.first_row + own);
      const double sum = 0.5 + seen[place], wanted = 1 / (std::sqrt(sum) + kRowEps);
      TORCHCLIP_EXPECT(near(factors[place], wanted), "row %zu: step %g, wanted %g", place, factors[place], wanted);
      const double kept = tensor.sum_is_double != 0 ? number(static_cast<double*>(tensor.sums) + own)
                                                    : number(static_cast<float*>(tensor.sums) + own);
      TORCHCLIP_EXPECT(near(kept, skips ? 0.5 : sum), "row %zu: sum %g, wanted %g", place, kept, sum);
      total += seen[place];
      direction += directions[place];
    }
  }
  TORCHCLIP_EXPECT(near(number(finish.grad_norm), std::sqrt(total)), "norm over everything");
  if (gradient_factors.empty())
    TORCHCLIP_EXPECT(near(number(finish.direction_norm), std::sqrt(direction)), "direction norm");
  TORCHCLIP_EXPECT(number(finish.clip_factor) == 1, "factor");
}

// AdaGradNorm over rows, alone or behind AdaptiveGradientClip.
template <class T, class S>
void test_steps(DType dtype, DType state, double momentum, bool has_factors, bool skips) {
  Coefficients coefficients{};
  coefficients.pipeline = {1, INFINITY, 0, 0.25, 1};
  coefficients.rule[0] = momentum;
  coefficients.rule[1] = 1 - momentum;
  if (has_factors) coefficients.pipeline.weight_decay = 0;  // so that a row's factor goes through all of it
  const Workload work = make_workload<T, S>(coefficients, momentum != 0);
  FinishRuleArguments finish{};
  finish.sums = {on_device(std::vector<Partial>(work.chunks.size())),
                 on_device(std::vector<int32_t>{0, static_cast<int32_t>(work.chunks.size())}), 1};
  PassArguments arguments = pass_of(work, const_cast<Partial*>(finish.sums.partials));
  std::vector<double> gradient_factors;
  for (int64_t index = 0; has_factors && index < work.rows; ++index) gradient_factors.push_back(1.0 / (1 + index % 3));
  if (has_factors) arguments.row_gradient_factors = on_device(gradient_factors);
  set_coefficients(arguments, {coefficients}, false);
  arguments.stages = kCoupledDecay;
  finish.row_sums = row_sums_of(work, arguments);
  finish.grad_norm = numbers_on_device(1);
  finish.direction_norm = numbers_on_device(1);
  finish.clip_factor = numbers_on_device(1);
  finish.counters = numbers_on_device(4, 0.0);
  finish.blocks_done = on_device(std::vector<uint32_t>{0});
  if (skips) arguments.numbers = finish.numbers = on_device(std::vector<StepNumbers>{{1, 1, 0}});
  finish.coefficients.rule = kPosition<AdaGradNorm>;
  finish.coefficients.inline_groups[0] = group_of_rule<AdaGradNorm>({0.1, momentum}, 0.25);
  const Bucket bucket{0, dtype, state, momentum != 0 ? 1u : 0u, kCoupledDecay | kRowFactors};
  const auto [launch, blocks] = find_launchers("adagrad_norm", bucket).row_direction_norm;
  finish.blocks = blocks(arguments.chunk_count);
  launch(arguments, finish, finish.blocks, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  expect_steps(work, arguments, finish, gradient_factors, skips);
}

// Factors of rows in the update, bit for bit.
template <class Functor, unsigned Slots, class T, class S>
void test_update(const char* rule, DType dtype, DType state, unsigned stages) {
  auto tensors = awkward_tensors<Functor, T, S>(Slots);
  std::vector<double> gradient_factors, step_factors;
  for (auto& tensor : tensors) {
    const Rows shapes[] = {{3, 5}, {7, 1}, {0, 1}, {1, std::max<int64_t>(tensor.device.numel, 1)}};
    tensor.device.rows = shapes[tensor.device.parameter % 4];
    tensor.device.first_row = static_cast<int64_t>(gradient_factors.size());
    for (int64_t row = 0; row < tensor.device.rows.count; ++row) {
      gradient_factors.push_back(1.0 / static_cast<double>(row + 3));
      step_factors.push_back(1.0 / static_cast<double>(row + 7));
    }
  }
  PassArguments arguments{};
  const std::vector<DeviceTensor> table = table_of(tensors);
  const std::vector<DeviceChunk> chunks = chunks_of(table);
  arguments.tensors = on_device(table);
  arguments.chunks = on_device(chunks);
  arguments.chunk_count = static_cast<int64_t>(chunks.size());
  arguments.pieces = 1;
  set_gradients(arguments, gradients_of(tensors), false);
  const Coefficients coefficients = test_coefficients(stages);
  set_coefficients(arguments, {coefficients}, false);
  arguments.row_gradient_factors = on_device(gradient_factors);
  if constexpr (Functor::kMeasuresDirection) arguments.row_step_factors = on_device(step_factors);
  arguments.numbers = on_device(std::vector<StepNumbers>{{3, 0, 1, kAverageWeight}});
  arguments.extras = {42, 0, 1u << 30, 1u << 31, false, false, 0.5};
  arguments.stages = stages;
  find_launchers(rule, {0, dtype, state, Slots, stages | kRowFactors}).update(arguments, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  for (auto& tensor : tensors) {
    const auto coefficients_of = [&](int64_t element) {
      Coefficients own = coefficients;
      if (tensor.device.rows.count == 0) return own;
      const size_t place = static_cast<size_t>(tensor.device.first_row + tensor.device.rows.of(element));
      own.pipeline.gradient_scale *= gradient_factors[place];
      if constexpr (Functor::kMeasuresDirection)
        for (int i = 0; i < kMaxCoefficients; ++i)
          if ((Functor::kStepCoefficients >> i & 1u) != 0) own.rule[i] *= step_factors[place];
      return own;
    };
    update_on_host<Slots>(tensor, coefficients_of, arguments, 3, true);
    TORCHCLIP_EXPECT(agrees(tensor, Slots), "%s dtypes %d %d: tensor %d differs", rule, static_cast<int>(dtype),
                     static_cast<int>(state), tensor.device.parameter);
  }
}

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip;
  using namespace torchclip::cuda;
  test_clip<float>(DType::kFloat32);
  test_clip<BFloat16>(DType::kBFloat16);
  for (const double momentum : {0.0, 0.75}) {
    test_steps<float, float>(DType::kFloat32, DType::kFloat32, momentum, false, false);
    test_steps<double, double>(DType::kFloat64, DType::kFloat64, momentum, true, false);
    test_steps<BFloat16, float>(DType::kBFloat16, DType::kFloat32, momentum, false, true);
  }
  for (const unsigned stages : {0u, static_cast<unsigned>(kEveryStage)}) {
    test_update<Momentum, 1, float, float>("sgd", DType::kFloat32, DType::kFloat32, stages);
    test_update<Momentum, 3, BFloat16, float>("adagrad_norm", DType::kBFloat16, DType::kFloat32, stages);
    test_update<SecondMoment, 3, double, double>("adam", DType::kFloat64, DType::kFloat64, stages);
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
