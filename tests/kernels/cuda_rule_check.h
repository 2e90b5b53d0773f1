// Tensors for the passes that measure directions, and what their sums are in double.
#pragma once

#include <random>

#include "cuda_testing.h"
#include "rules/registry.h"
#include "step/coefficients.h"

namespace torchclip::cuda {

// One tensor, by element number.
struct DirectionTensor {
  std::vector<double> gradient, seen, direction, weight;
};

// What a rule with momentum makes of the gradients; everything dense.
template <class T, class S>
DirectionTensor add_tensor(std::mt19937& generator, int64_t numel, const Coefficients& coefficients, bool has_momentum,
                           std::vector<DeviceTensor>& tensors, std::vector<const void*>& gradients,
                           int64_t offset = 0) {
  using C = ComputeType<T>;
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<T> parameter, gradient;
  std::vector<S> momentum_buffer;
  DirectionTensor sums;
  const auto pipeline = narrow<C>(coefficients.pipeline);
  for (int64_t i = 0; i < numel; ++i) {
    parameter.push_back(store<T>(static_cast<C>(uniform(generator))));
    gradient.push_back(store<T>(static_cast<C>(uniform(generator))));
    momentum_buffer.push_back(store<S>(static_cast<C>(uniform(generator))));
    const C seen = load(gradient.back()) * pipeline.gradient_scale + pipeline.weight_decay * load(parameter.back());
    const C averaged = static_cast<C>(coefficients.rule[0]) * load(momentum_buffer.back()) +
                       static_cast<C>(coefficients.rule[1]) * seen;
    sums.gradient.push_back(static_cast<double>(load(gradient.back())));
    sums.weight.push_back(static_cast<double>(load(parameter.back())));
    sums.seen.push_back(static_cast<double>(seen));
    sums.direction.push_back(static_cast<double>(has_momentum ? averaged : seen));
  }
  DeviceTensor tensor{};
  tensor.pointer[kParameter] = on_device(parameter, offset);
  tensor.pointer[kState0] = on_device(momentum_buffer, offset);
  tensor.numel = numel;
  tensor.parameter = static_cast<int32_t>(tensors.size());
  tensor.place.number = static_cast<uint32_t>(tensors.size());
  tensors.push_back(tensor);
  gradients.push_back(on_device(gradient, offset));
  return sums;
}

inline double sum_of_squares(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return sum;
}

// A param group: lr and the rule's own hyperparameters.
template <class Rule>
GroupNumbers group_of_rule(const typename Rule::Hyperparameters& hyperparameters, double weight_decay) {
  GroupNumbers group{};
  std::memcpy(group.hyperparameters, &hyperparameters, sizeof(hyperparameters));
  group.weight_decay = weight_decay;
  return group;
}

template <class Rule>
const int32_t kPosition = [] {
  int32_t found = -1;
  for_each_rule(Rules{}, [&](auto each, int32_t position) {
    if constexpr (std::is_same_v<Rule, typename decltype(each)::type>) found = position;
  });
  return found;
}();

}  // namespace torchclip::cuda
