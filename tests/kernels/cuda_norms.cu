// Run by test_cuda_passes.py: the norm pass of csrc/cuda and what its last block makes of the norms, beside plain
// sums in double. Prints what differs; exits with 0 when nothing does.
#include <random>

#include "cuda_finish_check.h"
#include "policies.h"

namespace torchclip::cuda {
namespace {

// Gradients of two types, of which each takes a launch of its own.
struct Workload {
  std::vector<DeviceTensor> tensors;
  std::vector<const void*> gradients;
  std::vector<double> sums;         // [tensors], of squares
  std::vector<DeviceChunk> chunks;  // float32's first
  std::vector<int32_t> tensor_chunks{0};
  int64_t float_chunks = 0;

  template <class T>
  void add(std::mt19937& generator, int64_t numel, int64_t offset, double size) {
    std::uniform_real_distribution<double> uniform(-size, size);
    std::vector<T> gradient;
    double sum = 0;
    for (int64_t i = 0; i < numel; ++i) {
      gradient.push_back(store<T>(static_cast<float>(uniform(generator))));
      sum += square(static_cast<double>(load(gradient.back())));
    }
    gradients.push_back(on_device(gradient, offset));
    DeviceTensor tensor{};
    tensor.numel = numel;
    tensor.parameter = static_cast<int32_t>(tensors.size());
    for (int64_t begin = 0; begin < numel; begin += 4 * kChunkGrain)
      chunks.push_back({tensor.parameter, static_cast<int32_t>(std::min(4 * kChunkGrain, numel - begin)),
                        static_cast<int32_t>(chunks.size()), begin});
    tensor_chunks.push_back(static_cast<int32_t>(chunks.size()));
    if (sizeof(T) == sizeof(float)) float_chunks = static_cast<int64_t>(chunks.size());
    tensors.push_back(tensor);
    sums.push_back(sum);
  }

  // The fourth tensor is empty: its unit has no partial sums.
  explicit Workload(double size = 1) {
    std::mt19937 generator(3);
    for (const int64_t numel : {1, 7, 1024, 0, 5000, 70'001}) add<float>(generator, numel, numel % 3, size);
    for (const int64_t numel : {3, 33, 2049}) add<BFloat16>(generator, numel, numel % 5, size);
    for (size_t index = 0; index < tensors.size(); ++index) tensors[index].coefficients = static_cast<int32_t>(index);
  }
};
constexpr size_t kEmpty = 3;

struct Result {
  std::vector<double> grad_norm, clip_factor;
  std::vector<Coefficients> sets;
  bool skipped;
};

// How the sums reach the finish: with the norm pass, or as those of two devices.
enum class Devices { kOne, kTwo };

FinishArguments finish_of(const Workload& work, const Modifiers& modifiers, bool per_tensor, const Numbers& numbers) {
  std::vector<CoefficientSource> sources(work.tensors.size());
  for (size_t set = 0; set < sources.size(); ++set) {
    sources[set].clip_unit = per_tensor ? static_cast<int32_t>(set) : 0;
    sources[set].fresh = -1;
  }
  FinishArguments finish = finish_with(modifiers, numbers);
  measure_units(finish, per_tensor ? work.tensor_chunks : std::vector<int32_t>{0, work.tensor_chunks.back()});
  make_coefficients_from(finish, sources);
  finish.coefficients.inline_groups[0].hyperparameters[0] = 0.5;
  finish.coefficients.inline_groups[0].maximize = 1;
  return finish;
}

// One step's norm pass; `per_tensor`: a unit for each tensor, and otherwise one for all.
Result measure(const Workload& work, const Modifiers& modifiers, bool per_tensor, const Numbers& numbers,
               Devices devices = Devices::kOne) {
  FinishArguments finish = finish_of(work, modifiers, per_tensor, numbers);
  const size_t units = static_cast<size_t>(finish.sums.units);
  UnitSum* const sets = on_device(std::vector<UnitSum>(2 * units));
  if (devices == Devices::kTwo) finish.sums.write_to = sets + units;
  PassArguments arguments{};
  arguments.tensors = on_device(work.tensors);
  arguments.partials = const_cast<Partial*>(finish.sums.partials);
  set_gradients(arguments, work.gradients, per_tensor);
  const DeviceChunk* const chunks = on_device(work.chunks);
  const int64_t counts[] = {work.float_chunks, static_cast<int64_t>(work.chunks.size()) - work.float_chunks};
  const Launchers launchers[] = {find_launchers("sgd", {0, DType::kFloat32, DType::kFloat32, 0, 0}),
                                 find_launchers("sgd", {0, DType::kBFloat16, DType::kBFloat16, 0, 0})};
  uint32_t blocks[2];
  // The first launch fills the coefficients, and has a block more for it.
  for (int launch = 0; launch < 2; ++launch)
    finish.blocks += blocks[launch] = launchers[launch].raw_norm.blocks(counts[launch] + (launch == 0 ? 1 : 0));
  for (int launch = 0; launch < 2; ++launch) {
    finish.fills_coefficients = launch == 0 ? 1 : 0;
    arguments.chunks = chunks + (launch == 0 ? 0 : work.float_chunks);
    arguments.chunk_count = counts[launch];
    launchers[launch].raw_norm.launch(arguments, finish, blocks[launch], nullptr);
  }
  if (devices == Devices::kTwo) {
    finish.sums = {nullptr, nullptr, static_cast<int32_t>(units), 2, sets};
    launch_finish(finish, nullptr);
  }
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const StepNumbers after = number(numbers.numbers);
  TORCHCLIP_EXPECT(after.step == number(numbers.step) + (after.skip != 0 ? 1 : 0) && after.synchronises == 0,
                   "the step's numbers");
  return {on_host(finish.grad_norm, units), on_host(finish.clip_factor, units),
          on_host(finish.coefficients.sets, work.tensors.size()), after.skip != 0};
}

double joint_norm(const Workload& work) {
  double sum = 0;
  for (const double own : work.sums) sum += own;
  return std::sqrt(sum);
}

void test_scopes() {
  const Workload work;
  const double joint = joint_norm(work);
  for (const bool smooth : {false, true}) {
    Modifiers modifiers;
    modifiers.clip = static_cast<double>(ClipKind::kNorm);
    modifiers.limit = joint / 3;
    modifiers.smooth = smooth;
    const Result one = measure(work, modifiers, false, {});
    TORCHCLIP_EXPECT(near(one.grad_norm[0], joint), "joint norm %g, wanted %g", one.grad_norm[0], joint);
    TORCHCLIP_EXPECT(one.clip_factor[0] == clip_factor(one.grad_norm[0], joint / 3, smooth), "joint factor");
    for (const Coefficients& coefficients : one.sets)
      TORCHCLIP_EXPECT(
          coefficients.pipeline.gradient_scale == -one.clip_factor[0] && coefficients.pipeline.value_limit == INFINITY,
          "coefficients");
    modifiers.limit = 5;
    const Result each = measure(work, modifiers, true, {});
    for (size_t tensor = 0; tensor < work.tensors.size(); ++tensor) {
      if (tensor == kEmpty) continue;
      TORCHCLIP_EXPECT(near(each.grad_norm[tensor], std::sqrt(work.sums[tensor])), "norm of tensor %zu", tensor);
      TORCHCLIP_EXPECT(each.clip_factor[tensor] == clip_factor(each.grad_norm[tensor], 5, smooth), "factor %zu",
                       tensor);
      TORCHCLIP_EXPECT(each.sets[tensor].pipeline.gradient_scale == -each.clip_factor[tensor], "coefficients %zu",
                       tensor);
    }
    TORCHCLIP_EXPECT(each.grad_norm[kEmpty] == 0 && each.clip_factor[kEmpty] == 1, "a unit without partial sums");
    TORCHCLIP_EXPECT(!one.skipped && !each.skipped, "a finite norm skipped the step");
    const Result again = measure(work, modifiers, true, {});
    TORCHCLIP_EXPECT(same_bits(again.grad_norm, each.grad_norm), "two runs differ");
    const Result two = measure(work, modifiers, true, {}, Devices::kTwo);
    TORCHCLIP_EXPECT(same_bits(two.grad_norm, each.grad_norm) && same_bits(two.clip_factor, each.clip_factor),
                     "sums of two devices");
  }
}

void test_counters() {
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kNorm);
  const Numbers numbers;
  for (const double limit : {1e9, 20.0, 1e9}) {
    modifiers.limit = limit;
    measure(Workload(), modifiers, false, numbers);
  }
  TORCHCLIP_EXPECT(same_bits(on_host(numbers.counters, 2), {3.0, 1.0}), "three steps, one of them clipped");
}

void test_step_sizes() {
  const Workload work;
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kNorm);
  modifiers.limit = 20;
  modifiers.b0 = 2;
  modifiers.alpha = 0.5;
  modifiers.c = 0.5;
  std::vector<Numbers> losses(5);
  losses[1].loss = on_device(std::vector<double>{1.5});
  losses[2].loss = on_device(std::vector<float>{1.5f});
  losses[2].loss_dtype = DType::kFloat32;
  losses[3].loss = on_device(std::vector<BFloat16>{store<BFloat16>(1.5f)});
  losses[3].loss_dtype = DType::kBFloat16;
  losses[4].loss = on_device(std::vector<Float16>{store<Float16>(1.5f)});
  losses[4].loss_dtype = DType::kFloat16;
  for (const Numbers& numbers : losses) {
    const bool counts = &numbers == &losses[0];  // b^2 from the steps
    modifiers.step_size = static_cast<double>(counts ? StepSizeKind::kSqrt : StepSizeKind::kLoss);
    const Result result = measure(work, modifiers, false, numbers);
    const double b_squared = counts ? 4.0 + 0.5 * 8.0 : 4.0 + 0.5 * 1.0;
    const double factor = 1.0 / std::sqrt(b_squared);
    const int dtype = static_cast<int>(numbers.loss_dtype);
    TORCHCLIP_EXPECT(number(numbers.lr_scale) == factor, "lr_scale, loss of dtype %d", dtype);
    TORCHCLIP_EXPECT(result.sets[0].pipeline.gradient_scale == -result.clip_factor[0] * factor, "scaled coefficients");
    TORCHCLIP_EXPECT(number(numbers.b_squared) == (counts ? 4.0 : b_squared), "b squared");
    TORCHCLIP_EXPECT(number(numbers.step) == 8.0, "step");
    TORCHCLIP_EXPECT(same_bits(on_host(numbers.counters, 2), {1.0, 1.0}), "counters");
  }
}

void test_z_clip() {
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kZScore);
  modifiers.z_alpha = 0.9;
  modifiers.z_threshold = 2.5;
  modifiers.z_warmup = 2;
  const ZClipSettings settings{0.9, 2.5, 2, 0, modifiers.limit};
  const Numbers numbers;
  NormAverages averages;
  for (const double size : {1.0, 1.1, 1.05, 30.0, 1.0}) {
    const Result result = measure(Workload(size), modifiers, false, numbers);
    const double bound = z_clip_bound(result.grad_norm[0], settings, averages);
    TORCHCLIP_EXPECT(result.clip_factor[0] == factor_to(result.grad_norm[0], bound), "ZClip's factor at %g", size);
    TORCHCLIP_EXPECT((result.clip_factor[0] < 1) == (size == 30.0), "ZClip clips the spike alone, at %g", size);
    TORCHCLIP_EXPECT(number(numbers.count) == averages.count && number(numbers.mean) == averages.mean &&
                         number(numbers.variance) == averages.variance,
                     "averages");
  }
}

// The percentile of the last four norms, by sorting.
void test_auto_clip() {
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kPercentile);
  modifiers.percentile = 30;
  modifiers.window = 4;
  const Numbers numbers;
  std::vector<double> norms;
  for (const double size : {1.0, 3.0, 2.0, 2.0, 0.5, 1e30, 4.0}) {
    const Result result = measure(Workload(size), modifiers, false, numbers);
    if (std::isfinite(result.grad_norm[0])) norms.push_back(result.grad_norm[0]);
    std::vector<double> last(norms.end() - std::min<std::ptrdiff_t>(4, static_cast<std::ptrdiff_t>(norms.size())),
                             norms.end());
    std::sort(last.begin(), last.end());
    const double rank = 0.3 * static_cast<double>(last.size() - 1);
    const size_t below = static_cast<size_t>(rank), above = std::min(below + 1, last.size() - 1);
    const double bound = last[below] + (rank - static_cast<double>(below)) * (last[above] - last[below]);
    TORCHCLIP_EXPECT(near(result.clip_factor[0], clip_factor(result.grad_norm[0], bound, false)) ||
                         result.clip_factor[0] == clip_factor(result.grad_norm[0], bound, false),
                     "AutoClip's factor at %g: %g", size, result.clip_factor[0]);
    TORCHCLIP_EXPECT(number(numbers.count) == static_cast<double>(norms.size()), "norms remembered");
  }
}

// A step that is skipped leaves every number as it was.
void test_skips() {
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kZScore);
  modifiers.z_warmup = 25;
  modifiers.step_size = static_cast<double>(StepSizeKind::kLoss);
  const auto untouched = [](const Numbers& numbers) {
    return number(numbers.count) == 0 && number(numbers.b_squared) == 4 && number(numbers.step) == 7 &&
           number(numbers.blocks_done) == 0 && same_bits(on_host(numbers.counters, 2), {0.0, 0.0}) &&
           number(numbers.lr_scale) == 1.0 / std::sqrt(5.5);
  };
  for (const NonFinite handling : {NonFinite::kPropagate, NonFinite::kSkip, NonFinite::kError}) {
    modifiers.nonfinite = static_cast<double>(handling);
    const Numbers numbers;
    const Result result = measure(Workload(1e30), modifiers, false, numbers);  // its squares overflow float32
    TORCHCLIP_EXPECT(std::isinf(result.grad_norm[0]), "an overflowing norm");
    TORCHCLIP_EXPECT(result.skipped == (handling != NonFinite::kPropagate), "handling %d", static_cast<int>(handling));
    if (result.skipped) TORCHCLIP_EXPECT(untouched(numbers), "a skipped step wrote a number");
  }
  Numbers overflow;
  overflow.found_inf = on_device(std::vector<float>{2.0f});  // a sum over devices
  TORCHCLIP_EXPECT(measure(Workload(), modifiers, false, overflow).skipped && untouched(overflow), "found_inf");
  Numbers scaled;
  scaled.grad_scale = on_device(std::vector<float>{4.0f});
  const Workload work;
  const Result result = measure(work, modifiers, false, scaled);
  TORCHCLIP_EXPECT(near(result.grad_norm[0], joint_norm(work) / 4), "the norm of unscaled gradients");
}

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip::cuda;
  test_scopes();
  test_counters();
  test_step_sizes();
  test_z_clip();
  test_auto_clip();
  test_skips();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
