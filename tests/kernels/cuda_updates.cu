// Run by test_cuda_passes.py: the update kernels of csrc/cuda on tensors of awkward sizes, alignments and
// layouts, beside a plain loop over the same pipeline. Prints what differs; exits with 0 when nothing does.
#include "cuda/operands.cuh"
#include "cuda_update_check.h"

namespace torchclip::cuda {
namespace {

constexpr uint32_t kStep = 5;
constexpr int64_t kLongChunk = 12 * kChunkGrain;  // one and a half pieces in half precision, six in double

struct Case {
  const char* name;
  unsigned stages;
  bool synchronises;
  bool in_memory;  // the tables of gradients and coefficients
};
constexpr Case kCases[] = {{"plain", 0, false, false},
                           {"decay", kCoupledDecay, false, true},
                           {"lookahead", 0, true, true},
                           {"value_clip", kValueClip, false, false},
                           {"gradient_dropout", kGradientDropout, false, false},
                           {"noise_and_decay", kGradientNoise | kCoupledDecay, false, true},
                           {"lr_dropout", kLRDropout, false, false},
                           {"everything", kEveryStage, true, true}};

template <class Functor, unsigned Slots, class T, class S>
void run_case(const char* rule, DType parameter, DType state, const Case& test) {
  auto tensors = awkward_tensors<Functor, T, S>(Slots);
  std::mt19937 generator(8);
  tensors.emplace_back(generator, kLongChunk + kLongChunk / 3 * 2 + 5, 1, true, Slots, 99);
  const std::vector<DeviceTensor> table = table_of(tensors);
  const std::vector<DeviceChunk> chunks = chunks_of(table, kLongChunk);
  const Coefficients coefficients = test_coefficients(test.stages);
  PassArguments arguments{};
  arguments.tensors = on_device(table);
  arguments.chunks = on_device(chunks);
  arguments.chunk_count = static_cast<int64_t>(chunks.size());
  set_gradients(arguments, gradients_of(tensors), test.in_memory);
  set_coefficients(arguments, {coefficients}, test.in_memory);
  arguments.pieces = static_cast<int32_t>((kLongChunk * static_cast<int64_t>(sizeof(T)) - 1) / kPieceBytes + 1);
  const size_t pieces = chunks.size() * static_cast<size_t>(arguments.pieces);
  arguments.zeros = on_device(std::vector<int64_t>(pieces));
  // Step and end of a round are in device memory; what the extras say of them is not looked at.
  arguments.extras = {0x123456789abcdef0u, 77, 1u << 30, 1u << 31, !test.synchronises, false, 0.5};
  if (test.stages != 0 || test.synchronises)
    arguments.numbers = on_device(std::vector<StepNumbers>{{kStep, 0, test.synchronises ? 1 : 0, kAverageWeight}});
  arguments.stages = test.stages;
  find_launchers(rule, {0, parameter, state, Slots, test.stages}).update(arguments, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  int64_t zeros = 0, zeros_seen = 0;
  for (auto& tensor : tensors) {
    update_on_host<Slots>(tensor, [&](int64_t) { return coefficients; }, arguments, kStep, test.synchronises);
    TORCHCLIP_EXPECT(agrees(tensor, Slots), "%s %s slots %u dtypes %d %d: tensor %d of %zu elements differs", rule,
                     test.name, Slots, static_cast<int>(parameter), static_cast<int>(state), tensor.device.parameter,
                     tensor.parameter.size());
    for (const T value : tensor.parameter) zeros += load(value) == 0;
  }
  if constexpr (Functor::kCountsZeros) {
    for (const int64_t count : on_host(arguments.zeros, pieces)) zeros_seen += count;
    TORCHCLIP_EXPECT(zeros_seen == zeros || test.synchronises, "%s %s: %lld zeros counted, %lld there", rule, test.name,
                     static_cast<long long>(zeros_seen), static_cast<long long>(zeros));
  }
}

// A step that is skipped writes nothing.
void run_skipped() {
  auto tensors = awkward_tensors<SecondMoment, float, float>(3);
  const std::vector<DeviceTensor> table = table_of(tensors);
  const std::vector<DeviceChunk> chunks = chunks_of(table);
  PassArguments arguments{};
  arguments.pieces = 1;
  arguments.tensors = on_device(table);
  arguments.chunks = on_device(chunks);
  arguments.chunk_count = static_cast<int64_t>(chunks.size());
  set_gradients(arguments, gradients_of(tensors), false);
  set_coefficients(arguments, {test_coefficients(0)}, false);
  arguments.numbers = on_device(std::vector<StepNumbers>{{kStep, 1, 1}});
  find_launchers("adam", {0, DType::kFloat32, DType::kFloat32, 3, 0}).update(arguments, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  for (const auto& tensor : tensors) TORCHCLIP_EXPECT(agrees(tensor, 3), "a skipped step wrote something");
}

__global__ void offsets_kernel(DeviceTensor tensor, int64_t element, Offsets* offsets) {
  *offsets = offsets_of<(1u << kOperands) - 1>(tensor, element);
}

// Of a tensor of 2^34 elements, which nobody has to make for it.
void run_large_offsets() {
  constexpr int64_t kSizes[] = {3, int64_t{1} << 33, 2};
  std::vector<int64_t> layout(kSizes, kSizes + 3);
  for (int64_t operand = 0; operand < kOperands; ++operand)
    layout.insert(layout.end(), {operand + 1, 7 + operand, (int64_t{1} << 40) + operand});
  DeviceTensor tensor{};
  tensor.dimensions = 3;
  tensor.layout = on_device(layout);
  Offsets* const offsets = on_device(std::vector<Offsets>(1));
  const int64_t index[] = {2, (int64_t{1} << 33) - 5, 1};
  const int64_t element = (index[0] * kSizes[1] + index[1]) * kSizes[2] + index[2];
  TORCHCLIP_LAUNCH(offsets_kernel, 1, 1, 0, nullptr, tensor, element, offsets);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const Offsets found = on_host(offsets, 1)[0];
  for (int64_t operand = 0; operand < kOperands; ++operand) {
    const int64_t* const strides = layout.data() + 3 * (1 + operand);
    const int64_t wanted = index[0] * strides[0] + index[1] * strides[1] + index[2] * strides[2];
    TORCHCLIP_EXPECT(found.of[operand] == wanted, "operand %d: offset %lld, wanted %lld", static_cast<int>(operand),
                     static_cast<long long>(found.of[operand]), static_cast<long long>(wanted));
  }
}

template <class Functor, unsigned Slots>
void run_dtypes(const char* rule) {
  for (const Case& test : kCases) {
    run_case<Functor, Slots, float, float>(rule, DType::kFloat32, DType::kFloat32, test);
    run_case<Functor, Slots, double, double>(rule, DType::kFloat64, DType::kFloat64, test);
    run_case<Functor, Slots, BFloat16, BFloat16>(rule, DType::kBFloat16, DType::kBFloat16, test);
    run_case<Functor, Slots, Float16, float>(rule, DType::kFloat16, DType::kFloat32, test);
  }
}

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip;
  using namespace torchclip::cuda;
  run_dtypes<Momentum, 0>("sgd");
  run_dtypes<Momentum, 1>("sgd");
  run_dtypes<Momentum, 3>("adagrad_norm");
  run_dtypes<SecondMoment, 3>("adam");
  run_dtypes<SecondMoment, 7>("adam");
  run_dtypes<RootMeanSquare, 1>("adagrad");
  run_dtypes<RootMeanSquare, 7>("rmsprop");
  run_dtypes<SoftThreshold, 1>("grda");
  run_dtypes<SoftThreshold, 3>("lin_breg");
  run_dtypes<SoftThreshold, 7>("ada_breg");
  run_dtypes<Lion, 1>("lion");
  run_skipped();
  run_large_offsets();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
