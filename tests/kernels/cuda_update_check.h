// Tensors for the update kernels, on the host and on the device, and the update of one in a plain loop.
#pragma once

#include <random>

#include "cuda_testing.h"
#include "normal.h"
#include "philox.h"
#include "rules/registry.h"
#include "step/coefficients.h"

namespace torchclip::cuda {

constexpr double kAverageWeight = 0.5;  // of Lookahead

inline Draws draws_of(const PassArguments& arguments, uint32_t step, uint32_t parameter, int64_t element) {
  const Extras& extras = arguments.extras;
  const auto word = [&](Stream stream, int lane) {
    const Counter counter = draw_counter(step, parameter, static_cast<uint64_t>(element) / 4, stream);
    return philox4x32(extras.seed, counter).word[lane];
  };
  const int lane = static_cast<int>(element % 4), pair = lane / 2 * 2;
  Draws draws;
  if ((arguments.stages & kGradientDropout) != 0)
    draws.keeps_gradient = keeps(word(kGradientDropoutStream, lane), extras.gradient_threshold);
  if ((arguments.stages & kLRDropout) != 0) draws.keeps_step = keeps(word(kLRDropoutStream, lane), extras.lr_threshold);
  float first, second;
  unit_vector(word(kNoiseStream, pair + 1), first, second);
  if ((arguments.stages & kGradientNoise) != 0)
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
  Laid<T> laid_parameter, laid_gradient;
  Laid<S> laid_state[kMaxSlots];
  Laid<C> laid_slow;
  DeviceTensor device{};

  // `sizes`: of a tensor whose operands are all laid out differently; empty where it is dense.
  TestTensor(std::mt19937& generator, int64_t numel, int64_t offset, bool same_offset, unsigned slots, int32_t position,
             const std::vector<int64_t>& sizes = {}) {
    std::uniform_real_distribution<double> uniform(-1, 1);
    const auto fill = [&](auto& values, auto stored, double least) {
      for (int64_t i = 0; i < numel; ++i)
        values.push_back(
            store<decltype(stored)>(static_cast<C>(least == 0 ? std::fabs(uniform(generator)) : uniform(generator))));
    };
    std::vector<int64_t> layout = sizes;
    layout.resize(sizes.size() * (1 + kOperands));
    const auto put = [&](auto& laid, const auto& values, int operand, int64_t shift) {
      laid.sizes = sizes;
      if (!sizes.empty()) laid.strides = turned_strides(sizes, static_cast<size_t>(operand), 1 + operand % 2);
      std::copy(laid.strides.begin(), laid.strides.end(),
                layout.begin() + (1 + operand) * static_cast<std::ptrdiff_t>(sizes.size()));
      laid.put(values, shift);
      device.pointer[operand] = laid.device;
    };
    fill(parameter, T{}, -1);
    fill(gradient, T{}, -1);
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((slots >> slot & 1u) != 0) fill(state[slot], S{}, slot == 0 && Functor::kSlots < 3 ? -1 : 0);
    for (int64_t i = 0; i < numel; ++i) slow.push_back(static_cast<C>(uniform(generator)));
    put(laid_parameter, parameter, kParameter, offset);
    put(laid_gradient, gradient, kGradient, same_offset ? offset : offset + 1);
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((slots >> slot & 1u) != 0) put(laid_state[slot], state[slot], kState0 + slot, offset);
    put(laid_slow, slow, kSlow, offset);
    device.pointer[kGradient] = nullptr;  // gradients have a table of their own
    device.numel = numel;
    device.parameter = position;
    const auto number = static_cast<uint32_t>(position);
    const DrawPlace places[] = {{number}, {number + 7, 5}, {number, 2, 16, 33}, {number, 3, 7, 11}};
    device.place = places[position % 4];
    device.dimensions = static_cast<int32_t>(sizes.size());
    device.layout = on_device(layout);
  }
};

template <unsigned Slots, class Functor, class T, class S, class CoefficientsOfElement>
void update_on_host(TestTensor<Functor, T, S>& tensor, const CoefficientsOfElement& coefficients_of,
                    const PassArguments& arguments, uint32_t step, bool synchronises) {
  using C = ComputeType<T>;
  for (size_t i = 0; i < tensor.parameter.size(); ++i) {
    const Coefficients coefficients = coefficients_of(static_cast<int64_t>(i));
    C state[Functor::kSlots] = {};
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((Slots >> slot & 1u) != 0) state[slot] = load(tensor.state[slot][i]);
    const Draws draws =
        draws_of(arguments, step, tensor.device.place.number, tensor.device.place.of(static_cast<int64_t>(i)));
    const C value =
        update<Functor, Slots, kEveryStage>(narrow<C>(coefficients.pipeline), narrow_rule<Functor, C>(coefficients),
                                            load(tensor.parameter[i]), load(tensor.gradient[i]), draws, state);
    tensor.parameter[i] = store<T>(value);
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((Slots >> slot & 1u) != 0) tensor.state[slot][i] = store<S>(state[slot]);
    if (!synchronises) continue;
    tensor.slow[i] = synchronise(tensor.slow[i], load(tensor.parameter[i]), static_cast<C>(kAverageWeight));
    tensor.parameter[i] = store<T>(tensor.slow[i]);
  }
}

// Whether the device has what the host has.
template <class Functor, class T, class S>
bool agrees(const TestTensor<Functor, T, S>& tensor, unsigned slots) {
  bool same = same_bits(tensor.laid_parameter.get(), tensor.parameter) &&
              same_bits(tensor.laid_slow.get(), tensor.slow) && same_bits(tensor.laid_gradient.get(), tensor.gradient);
  for (int slot = 0; slot < Functor::kSlots; ++slot)
    if ((slots >> slot & 1u) != 0) same = same && same_bits(tensor.laid_state[slot].get(), tensor.state[slot]);
  return same;
}

// Sizes around a vector and a chunk; offsets on and off 16 bytes, the gradient's another one now and then; layouts that
// differ from operand to operand, one of many dimensions.
template <class Functor, class T, class S>
std::vector<TestTensor<Functor, T, S>> awkward_tensors(unsigned slots) {
  std::mt19937 generator(7);
  std::vector<TestTensor<Functor, T, S>> tensors;
  int32_t position = 0;
  for (const int64_t numel : {0, 1, 3, 7, 8, 33, 1023, 1024, 1025, 3 * 1024 + 5}) {
    for (const int64_t offset : {0, 1, 3}) {
      tensors.emplace_back(generator, numel, offset, position % 5 != 4, slots, position);
      ++position;
    }
  }
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{17, 9, 10}, std::vector<int64_t>{2, 1, 3, 1, 2, 2, 1, 2, 1, 3}, std::vector<int64_t>{5}}) {
    const int64_t numel = std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
    tensors.emplace_back(generator, numel, 1, true, slots, position, sizes);
    ++position;
  }
  return tensors;
}

template <class Functor, class T, class S>
std::vector<DeviceTensor> table_of(const std::vector<TestTensor<Functor, T, S>>& tensors) {
  std::vector<DeviceTensor> table;
  for (const auto& tensor : tensors) table.push_back(tensor.device);
  return table;
}

template <class Functor, class T, class S>
std::vector<const void*> gradients_of(const std::vector<TestTensor<Functor, T, S>>& tensors) {
  std::vector<const void*> gradients;
  for (const auto& tensor : tensors) gradients.push_back(tensor.laid_gradient.device);
  return gradients;
}

// Coefficients that move every functor visibly and keep its denominators away from 0.
inline Coefficients test_coefficients(unsigned stages) {
  Coefficients coefficients{};
  coefficients.pipeline = {-0.5, (stages & kValueClip) != 0 ? 0.25 : INFINITY,
                           (stages & kGradientNoise) != 0 ? 0.125 : 0.0, (stages & kCoupledDecay) != 0 ? 0.0625 : 0.0,
                           0.75};
  const double rule[kMaxCoefficients] = {0.875, 0.125, 0.75, 0.25, 0.5, 0.0625, 0.5, 0.25};
  std::copy(rule, rule + kMaxCoefficients, coefficients.rule);
  return coefficients;
}

}  // namespace torchclip::cuda
