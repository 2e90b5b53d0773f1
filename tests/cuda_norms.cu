// Run by tests/test_cuda_passes.py: the norm pass of csrc/cuda and what its last block makes of the norms, beside plain
// sums in double. Prints what differs; exits with 0 when nothing does.
#include <algorithm>
#include <cmath>
#include <random>

#include "cuda/passes.h"
#include "cuda_testing.h"
#include "policies.h"

namespace torchclip::cuda {
namespace {

// Gradients of two types, of which each takes a launch of its own.
struct Workload {
  std::vector<DeviceTensor> tensors;
  std::vector<DType> dtypes;
  std::vector<double> sums;         // [tensors], of squares
  std::vector<DeviceChunk> chunks;  // float32's first
  std::vector<int32_t> tensor_chunks{0};
  int64_t float_chunks = 0;

  template <class T>
  void add(std::mt19937& generator, int64_t numel, int64_t offset, DType dtype, double size) {
    std::uniform_real_distribution<double> uniform(-size, size);
    std::vector<T> gradient;
    double sum = 0;
    for (int64_t i = 0; i < numel; ++i) {
      gradient.push_back(store<T>(static_cast<float>(uniform(generator))));
      sum += square(static_cast<double>(load(gradient.back())));
    }
    DeviceTensor tensor{};
    tensor.pointer[kGradient] = on_device(gradient, offset);
    tensor.numel = numel;
    tensor.member = static_cast<int32_t>(tensors.size());
    tensor.head = static_cast<int32_t>((16 / sizeof(T) - static_cast<size_t>(offset)) % (16 / sizeof(T)));
    for (int64_t begin = 0; begin < numel; begin += kChunkGrain)
      chunks.push_back({tensor.member, static_cast<int32_t>(std::min(kChunkGrain, numel - begin)), begin});
    tensor_chunks.push_back(static_cast<int32_t>(chunks.size()));
    if (dtype == DType::kFloat32) float_chunks = static_cast<int64_t>(chunks.size());
    tensors.push_back(tensor);
    dtypes.push_back(dtype);
    sums.push_back(sum);
  }

  explicit Workload(double size = 1) {
    std::mt19937 generator(3);
    for (const int64_t numel : {1, 7, 1024, 5000, 70'001})
      add<float>(generator, numel, numel % 3, DType::kFloat32, size);
    for (const int64_t numel : {3, 33, 2049}) add<BFloat16>(generator, numel, numel % 5, DType::kBFloat16, size);
    for (size_t index = 0; index < tensors.size(); ++index) tensors[index].row = static_cast<int32_t>(index);
  }
};

// The numbers on the device that a step reads and writes.
struct Numbers {
  double* count = on_device(std::vector<double>{0.0});
  double* mean = on_device(std::vector<double>{0.0});
  double* variance = on_device(std::vector<double>{0.0});
  double* window = on_device(std::vector<double>(4, 0.0));
  double* b_squared = on_device(std::vector<double>{4.0});
  double* step = on_device(std::vector<double>{7.0});
  double* loss = on_device(std::vector<double>{1.5});
  double* lr_scale = on_device(std::vector<double>{0.0});
  float* grad_scale = nullptr;
  float* found_inf = nullptr;
  uint32_t* blocks_done = on_device(std::vector<uint32_t>{0});
  int32_t* skip = on_device(std::vector<int32_t>{-1});
};

struct Result {
  std::vector<double> grad_norm, clip_factor;
  std::vector<Row> rows;
  bool skipped;
};

// One step's norm pass; `per_tensor`: a unit for each tensor, and otherwise one for all.
Result measure(const Workload& work, const Modifiers& modifiers, bool per_tensor, const Numbers& numbers) {
  const size_t units = per_tensor ? work.tensors.size() : 1;
  std::vector<int32_t> unit_chunks = work.tensor_chunks;
  if (!per_tensor) unit_chunks = {0, static_cast<int32_t>(work.chunks.size())};
  std::vector<RowSource> sources;
  for (size_t row = 0; row < work.tensors.size(); ++row)
    sources.push_back({per_tensor ? static_cast<int32_t>(row) : 0});
  Row row{};
  row.pipeline = {-1.0, 0.5, 0.0, 0.0, 1.0};
  PassArguments arguments{};
  arguments.tensors = on_device(work.tensors);
  arguments.rows = on_device(std::vector<Row>(sources.size(), row));
  Partial* const partials = on_device(std::vector<Partial>(work.chunks.size()));
  FinishArguments finish{partials,
                         on_device(unit_chunks),
                         static_cast<int32_t>(units),
                         static_cast<int32_t>(sources.size()),
                         on_device(sources),
                         const_cast<Row*>(arguments.rows),
                         on_device(std::vector<double>(units, -1.0)),
                         on_device(std::vector<double>(units, -1.0)),
                         numbers.count,
                         numbers.mean,
                         numbers.variance,
                         numbers.window,
                         numbers.loss,
                         numbers.b_squared,
                         numbers.step,
                         numbers.grad_scale,
                         numbers.found_inf,
                         numbers.skip,
                         numbers.lr_scale,
                         numbers.blocks_done,
                         0,
                         modifiers};
  const DeviceChunk* const chunks = on_device(work.chunks);
  const int64_t counts[] = {work.float_chunks, static_cast<int64_t>(work.chunks.size()) - work.float_chunks};
  const Launchers launchers[] = {find_launchers("sgd", {0, DType::kFloat32, DType::kFloat32, 0, 0}),
                                 find_launchers("sgd", {0, DType::kBFloat16, DType::kBFloat16, 0, 0})};
  uint32_t blocks[2];
  for (int launch = 0; launch < 2; ++launch)
    finish.blocks += blocks[launch] = launchers[launch].norm_blocks(counts[launch]);
  for (int launch = 0; launch < 2; ++launch) {
    const int64_t first = launch == 0 ? 0 : work.float_chunks;
    arguments.chunks = chunks + first;
    arguments.chunk_count = counts[launch];
    arguments.partials = partials + first;
    launchers[launch].raw_norm(arguments, finish, blocks[launch], nullptr);
  }
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  return {on_host(finish.grad_norm, units), on_host(finish.clip_factor, units), on_host(finish.rows, sources.size()),
          on_host(numbers.skip, 1)[0] != 0};
}

bool near(double a, double b) { return std::fabs(a - b) <= 1e-6 * std::fabs(b); }

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
    for (const Row& row : one.rows)
      TORCHCLIP_EXPECT(row.pipeline.gradient_scale == -one.clip_factor[0] && row.pipeline.value_limit == 0.5, "row");
    modifiers.limit = 5;
    const Result each = measure(work, modifiers, true, {});
    for (size_t tensor = 0; tensor < work.tensors.size(); ++tensor) {
      TORCHCLIP_EXPECT(near(each.grad_norm[tensor], std::sqrt(work.sums[tensor])), "norm of tensor %zu", tensor);
      TORCHCLIP_EXPECT(each.clip_factor[tensor] == clip_factor(each.grad_norm[tensor], 5, smooth), "factor %zu",
                       tensor);
      TORCHCLIP_EXPECT(each.rows[tensor].pipeline.gradient_scale == -each.clip_factor[tensor], "row %zu", tensor);
    }
    TORCHCLIP_EXPECT(!one.skipped && !each.skipped, "a finite norm skipped the step");
    const Result again = measure(work, modifiers, true, {});
    TORCHCLIP_EXPECT(same_bits(again.grad_norm, each.grad_norm), "two runs differ");
  }
}

void test_step_sizes() {
  const Workload work;
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kNorm);
  modifiers.b0 = 2;
  modifiers.alpha = 0.5;
  modifiers.c = 0.5;
  for (const StepSizeKind kind : {StepSizeKind::kLoss, StepSizeKind::kSqrt}) {
    modifiers.step_size = static_cast<double>(kind);
    const Numbers numbers;
    const Result result = measure(work, modifiers, false, numbers);
    const double b_squared = kind == StepSizeKind::kLoss ? 4.0 + 0.5 * 1.0 : 4.0 + 0.5 * 8.0;
    const double factor = 1.0 / std::sqrt(b_squared);
    TORCHCLIP_EXPECT(on_host(numbers.lr_scale, 1)[0] == factor, "lr_scale");
    TORCHCLIP_EXPECT(result.rows[0].pipeline.gradient_scale == -1.0 * (factor * result.clip_factor[0]), "scaled row");
    TORCHCLIP_EXPECT(result.rows[0].pipeline.value_limit == 0.5 * factor, "value limit");
    TORCHCLIP_EXPECT(on_host(numbers.b_squared, 1)[0] == (kind == StepSizeKind::kLoss ? b_squared : 4.0), "b squared");
    TORCHCLIP_EXPECT(on_host(numbers.step, 1)[0] == 8.0, "step");
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
    TORCHCLIP_EXPECT(on_host(numbers.count, 1)[0] == averages.count && on_host(numbers.mean, 1)[0] == averages.mean &&
                         on_host(numbers.variance, 1)[0] == averages.variance,
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
    TORCHCLIP_EXPECT(on_host(numbers.count, 1)[0] == static_cast<double>(norms.size()), "norms remembered");
  }
}

// A step that is skipped leaves every number as it was.
void test_skips() {
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kZScore);
  modifiers.z_warmup = 25;
  modifiers.step_size = static_cast<double>(StepSizeKind::kLoss);
  const auto untouched = [](const Numbers& numbers) {
    return on_host(numbers.count, 1)[0] == 0 && on_host(numbers.b_squared, 1)[0] == 4 &&
           on_host(numbers.step, 1)[0] == 7 && on_host(numbers.blocks_done, 1)[0] == 0;
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
  test_step_sizes();
  test_z_clip();
  test_auto_clip();
  test_skips();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
