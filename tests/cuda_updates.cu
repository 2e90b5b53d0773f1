// Run by tests/test_cuda_passes.py: the update kernels of csrc/cuda on tensors of awkward sizes and alignments, beside
// a plain loop over the same pipeline. Prints what differs; exits with 0 when nothing does.
#include <cmath>
#include <random>
#include <vector>

#include "coefficients.h"
#include "cuda/passes.h"
#include "cuda_testing.h"
#include "normal.h"
#include "philox.h"
#include "rules/registry.h"

namespace torchclip::cuda {
namespace {

struct Case {
  const char* name;
  unsigned stages;
  bool synchronises;
  bool streams;
};
constexpr Case kCases[] = {{"plain", 0, false, false},
                           {"decay", kCoupledDecay, false, true},
                           {"lookahead", 0, true, false},
                           {"value_clip", kValueClip, false, false},
                           {"gradient_dropout", kGradientDropout, false, false},
                           {"noise_and_decay", kGradientNoise | kCoupledDecay, false, false},
                           {"lr_dropout", kLRDropout, false, false},
                           {"everything", kEveryStage, true, true}};

Draws draws_of(const Extras& extras, unsigned stages, uint32_t parameter, int64_t element) {
  const auto word = [&](Stream stream, int lane) {
    const Counter counter = draw_counter(extras.step, parameter, static_cast<uint64_t>(element) / 4, stream);
    return philox4x32(extras.seed, counter).word[lane];
  };
  const int lane = static_cast<int>(element % 4), pair = lane / 2 * 2;
  Draws draws;
  if ((stages & kGradientDropout) != 0)
    draws.keeps_gradient = keeps(word(kGradientDropoutStream, lane), extras.gradient_threshold);
  if ((stages & kLRDropout) != 0) draws.keeps_step = keeps(word(kLRDropoutStream, lane), extras.lr_threshold);
  float first, second;
  unit_vector(word(kNoiseStream, pair + 1), first, second);
  if ((stages & kGradientNoise) != 0)
    draws.normal = rounded_product(normal_radius(word(kNoiseStream, pair)), lane % 2 == 0 ? first : second);
  return draws;
}

// One tensor on the host and on the device.
template <class Functor, class T, class S>
struct TestTensor {
  using C = ComputeType<T>;
  std::vector<T> parameter, gradient;
  std::vector<S> state[kMaxSlots];
  std::vector<C> slow;
  DeviceTensor device{};

  TestTensor(std::mt19937& generator, int64_t numel, int64_t offset, bool same_offset, unsigned slots, int32_t member) {
    std::uniform_real_distribution<double> uniform(-1, 1);
    const auto fill = [&](auto& values, auto stored, double least) {
      for (int64_t i = 0; i < numel; ++i)
        values.push_back(
            store<decltype(stored)>(static_cast<C>(least == 0 ? std::fabs(uniform(generator)) : uniform(generator))));
    };
    fill(parameter, T{}, -1);
    fill(gradient, T{}, -1);
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((slots >> slot & 1u) != 0) fill(state[slot], S{}, slot == 0 && Functor::kSlots < 3 ? -1 : 0);
    for (int64_t i = 0; i < numel; ++i) slow.push_back(static_cast<C>(uniform(generator)));
    const int64_t shifted = same_offset ? offset : offset + 1;
    device.pointer[kParameter] = on_device(parameter, offset);
    device.pointer[kGradient] = on_device(gradient, shifted);
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((slots >> slot & 1u) != 0) device.pointer[kState0 + slot] = on_device(state[slot], offset);
    device.pointer[kSlow] = on_device(slow, offset);
    device.numel = numel;
    device.member = member;
    device.head = head_of(slots);
  }

  // Elements until every operand in use lies on 16 bytes; -1 when that is never at once.
  int32_t head_of(unsigned slots) const {
    const auto aligned = [&](int operand, int64_t elements, size_t size) {
      return (reinterpret_cast<uintptr_t>(device.pointer[operand]) + static_cast<size_t>(elements) * size) % 16 == 0;
    };
    for (int32_t head = 0; head < static_cast<int32_t>(16 / sizeof(T)); ++head) {
      bool all = aligned(kParameter, head, sizeof(T)) && aligned(kGradient, head, sizeof(T)) &&
                 aligned(kSlow, head, sizeof(C));
      for (int slot = 0; slot < Functor::kSlots; ++slot)
        if ((slots >> slot & 1u) != 0) all = all && aligned(kState0 + slot, head, sizeof(S));
      if (all) return head;
    }
    return -1;
  }
};

template <class Functor, unsigned Slots, class T, class S>
void update_on_host(TestTensor<Functor, T, S>& tensor, const Row& row, const PassArguments& arguments) {
  using C = ComputeType<T>;
  const auto pipeline = narrow<C>(row.pipeline);
  const auto rule = narrow_rule<Functor, C>(row);
  for (size_t i = 0; i < tensor.parameter.size(); ++i) {
    C state[Functor::kSlots] = {};
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((Slots >> slot & 1u) != 0) state[slot] = load(tensor.state[slot][i]);
    const Draws draws = draws_of(arguments.extras, arguments.stages, static_cast<uint32_t>(tensor.device.member),
                                 static_cast<int64_t>(i));
    const C value = update<Functor, Slots, kEveryStage>(pipeline, rule, load(tensor.parameter[i]),
                                                        load(tensor.gradient[i]), draws, state);
    tensor.parameter[i] = store<T>(value);
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((Slots >> slot & 1u) != 0) tensor.state[slot][i] = store<S>(state[slot]);
    if (!arguments.extras.synchronises) continue;
    tensor.slow[i] =
        synchronise(tensor.slow[i], load(tensor.parameter[i]), static_cast<C>(arguments.extras.lookahead_alpha));
    tensor.parameter[i] = store<T>(tensor.slow[i]);
  }
}

// Sizes around a vector and a chunk; offsets on and off 16 bytes, the gradient's another one now and then.
template <class Functor, class T, class S>
std::vector<TestTensor<Functor, T, S>> awkward_tensors(unsigned slots) {
  std::mt19937 generator(7);
  std::vector<TestTensor<Functor, T, S>> tensors;
  int32_t member = 0;
  for (const int64_t numel : {0, 1, 3, 7, 8, 33, 1023, 1024, 1025, 3 * 1024 + 5})
    for (const int64_t offset : {0, 1, 3})
      tensors.emplace_back(generator, numel, offset, member % 5 != 4, slots, member++);
  return tensors;
}

std::vector<DeviceChunk> chunks_of(const std::vector<DeviceTensor>& tensors) {
  std::vector<DeviceChunk> chunks;
  for (size_t index = 0; index < tensors.size(); ++index)
    for (int64_t begin = 0; begin < tensors[index].numel; begin += kChunkGrain)
      chunks.push_back({static_cast<int32_t>(index),
                        static_cast<int32_t>(std::min(kChunkGrain, tensors[index].numel - begin)), begin});
  return chunks;
}

// Coefficients that move every functor visibly and keep its denominators away from 0.
Row row_of(unsigned stages) {
  Row row{};
  row.pipeline = {-0.5, (stages & kValueClip) != 0 ? 0.25 : INFINITY, (stages & kGradientNoise) != 0 ? 0.125 : 0.0,
                  (stages & kCoupledDecay) != 0 ? 0.0625 : 0.0, 0.75};
  const double rule[kMaxCoefficients] = {0.875, 0.125, 0.75, 0.25, 0.5, 0.0625, 0.5, 0.25};
  std::copy(rule, rule + kMaxCoefficients, row.rule);
  return row;
}

template <class Functor, unsigned Slots, class T, class S>
void run_case(const char* rule, DType parameter, DType state, const Case& test) {
  auto tensors = awkward_tensors<Functor, T, S>(Slots);
  std::vector<DeviceTensor> table;
  for (const auto& tensor : tensors) table.push_back(tensor.device);
  const std::vector<DeviceChunk> chunks = chunks_of(table);
  const std::vector<Row> rows{row_of(test.stages)};
  PassArguments arguments{};
  arguments.tensors = on_device(table);
  arguments.chunks = on_device(chunks);
  arguments.chunk_count = static_cast<int64_t>(chunks.size());
  arguments.rows = on_device(rows);
  arguments.zeros = on_device(std::vector<int64_t>(chunks.size(), -1));
  arguments.extras = {0x123456789abcdef0u, 5, 1u << 30, 1u << 31, test.synchronises, 0.5};
  arguments.stages = test.stages;
  arguments.streams = test.streams ? 1 : 0;
  const Launchers launchers = find_launchers(rule, {0, parameter, state, Slots, test.stages});
  launchers.update(arguments, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  int64_t zeros = 0, zeros_seen = 0;
  for (auto& tensor : tensors) {
    update_on_host<Functor, Slots, T, S>(tensor, rows[0], arguments);
    const size_t numel = tensor.parameter.size();
    bool same = same_bits(on_host(static_cast<const T*>(tensor.device.pointer[kParameter]), numel), tensor.parameter);
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((Slots >> slot & 1u) != 0)
        same = same && same_bits(on_host(static_cast<const S*>(tensor.device.pointer[kState0 + slot]), numel),
                                 tensor.state[slot]);
    using C = ComputeType<T>;
    same = same && same_bits(on_host(static_cast<const C*>(tensor.device.pointer[kSlow]), numel), tensor.slow);
    TORCHCLIP_EXPECT(same, "%s %s slots %u dtypes %d %d: tensor %d of %zu elements, head %d differs", rule, test.name,
                     Slots, static_cast<int>(parameter), static_cast<int>(state), tensor.device.member, numel,
                     tensor.device.head);
    for (const T value : tensor.parameter) zeros += load(value) == 0;
  }
  if constexpr (Functor::kCountsZeros) {
    for (const int64_t count : on_host(arguments.zeros, chunks.size())) zeros_seen += count;
    TORCHCLIP_EXPECT(zeros_seen == zeros || test.synchronises, "%s %s: %lld zeros counted, %lld there", rule, test.name,
                     static_cast<long long>(zeros_seen), static_cast<long long>(zeros));
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
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
