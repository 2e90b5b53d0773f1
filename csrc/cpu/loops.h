// The loops over the elements of one chunk. A plain loop over a scalar functor, which the compiler vectorises for each
// instruction set; the best one is chosen when the library is loaded.
#pragma once

#include <type_traits>

#include "../rules/registry.h"
#include "passes.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define TORCHCLIP_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TORCHCLIP_CLONES
#endif

namespace torchclip::cpu {

template <class C>
PipelineCoefficients<C> narrow(const PipelineCoefficients<double>& k) {
  return {static_cast<C>(k.gradient_scale), static_cast<C>(k.value_limit), static_cast<C>(k.weight_decay),
          static_cast<C>(k.shrink)};
}

// A functor's coefficients are a struct of numbers of one type: the row holds them in the order of declaration.
template <class Functor, class C>
typename Functor::template Coefficients<C> narrow_rule(const Row& row) {
  using Coefficients = typename Functor::template Coefficients<C>;
  constexpr int kCount = sizeof(Coefficients) / sizeof(C);
  static_assert(kCount <= kMaxCoefficients && kCount == std::size(Functor::kCoefficientNames));
  C values[kCount];
  for (int i = 0; i < kCount; ++i) values[i] = static_cast<C>(row.rule[i]);
  Coefficients result;
  memcpy(&result, values, sizeof(result));
  return result;
}

// Typed pointers to a chunk's operands. `Slots` is the mask of state slots in use.
template <class Functor, unsigned Slots, class T, class S>
struct Streams {
  static constexpr int kSlots = Functor::kSlots;
  using C = ComputeType<T>;
  S* state[kSlots];

  TORCHCLIP_HD explicit Streams(const Operands& operands) {
    for (int slot = 0; slot < kSlots; ++slot) state[slot] = static_cast<S*>(operands.pointer[kState0 + slot]);
  }
  TORCHCLIP_HD void read(int64_t i, C (&values)[kSlots]) const {
    if constexpr ((Slots & 1u) != 0) values[0] = load(state[0][i]);
    if constexpr ((Slots & 2u) != 0) values[1] = load(state[1][i]);
    if constexpr ((Slots & 4u) != 0) values[2] = load(state[2][i]);
  }
  TORCHCLIP_HD void write(int64_t i, const C (&values)[kSlots]) const {
    if constexpr ((Slots & 1u) != 0) state[0][i] = store<S>(values[0]);
    if constexpr ((Slots & 2u) != 0) state[1][i] = store<S>(values[1]);
    if constexpr ((Slots & 4u) != 0) state[2][i] = store<S>(values[2]);
  }
};

template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
TORCHCLIP_CLONES int64_t update_loop(const Operands& operands, const Row& row) {
  using C = ComputeType<T>;
  const auto pipeline = narrow<C>(row.pipeline);
  const auto rule = narrow_rule<Functor, C>(row);
  T* const parameter = static_cast<T*>(operands.pointer[kParameter]);
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  const Streams<Functor, Slots, T, S> streams(operands);
  const int64_t count = operands.count;
  int32_t zeros = 0;
#pragma GCC ivdep  // operands are different tensors: no alias checks
  for (int64_t i = 0; i < count; ++i) {
    C state[Functor::kSlots] = {};
    streams.read(i, state);
    const C before = kNeedsParameter<Functor, Stages> ? load(parameter[i]) : C(0);
    const C after = update<Functor, Slots, Stages>(pipeline, rule, before, load(gradient[i]), state);
    streams.write(i, state);
    const T stored = store<T>(after);
    parameter[i] = stored;
    if constexpr (Functor::kCountsZeros) zeros += load(stored) == C(0);
  }
  return zeros;
}

// Squares are summed in kLanes running sums of the compute type, kNormBlock elements at a time, and the blocks in
// double, so that no digits are lost with the length of a chunk.
constexpr int kLanes = 32;

// In a tree, which is both shorter to wait for and more exact than one after the other.
template <class C>
TORCHCLIP_HD double sum_lanes(const C (&lanes)[kLanes]) {
  double sums[kLanes / 2];
  for (int lane = 0; lane < kLanes / 2; ++lane)
    sums[lane] = static_cast<double>(lanes[lane]) + static_cast<double>(lanes[lane + kLanes / 2]);
  for (int width = kLanes / 4; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  return sums[0];
}

template <class T>
TORCHCLIP_CLONES int64_t scale_loop(const Operands& operands, const Row& row) {
  const auto scale = static_cast<ComputeType<T>>(row.pipeline.gradient_scale);
  T* const values = static_cast<T*>(operands.pointer[kParameter]);
  for (int64_t i = 0; i < operands.count; ++i) values[i] = store<T>(load(values[i]) * scale);
  return 0;
}

// The norms of other orders that torch.nn.utils offers. In double: they are rare, and powers of small numbers
// underflow.
template <class T>
Partial power_sum_loop(const Operands& operands, const Row& row) {
  const double order = row.rule[0];
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  Partial total;
  for (int64_t i = 0; i < operands.count; ++i) {
    const double size = std::fabs(static_cast<double>(load(gradient[i])));
    total.gradient += order == 1 ? size : std::pow(size, order);
  }
  return total;
}

template <class T>
Partial largest_loop(const Operands& operands, const Row&) {
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  Partial total;
  for (int64_t i = 0; i < operands.count; ++i)
    total.maximum = larger(total.maximum, std::fabs(static_cast<double>(load(gradient[i]))));
  return total;
}

template <class T>
TORCHCLIP_CLONES Partial raw_norm_loop(const Operands& operands, const Row& row) {
  using C = ComputeType<T>;
  const C scale = static_cast<C>(row.pipeline.gradient_scale);
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  Partial total;
  for (int64_t begin = 0; begin < operands.count; begin += kNormBlock) {
    const int64_t end = begin + kNormBlock < operands.count ? begin + kNormBlock : operands.count;
    int64_t i = begin;
    if (end - begin < kLanes) {  // a bias or a scale: clearing and adding up the lanes would take longer than the sum
      for (; i < end; ++i) total.gradient += square(static_cast<double>(load(gradient[i]) * scale));
      continue;
    }
    C lanes[kLanes] = {};
    for (; i + kLanes <= end; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += square(load(gradient[i + lane]) * scale);
    }
    for (int lane = 0; i < end; ++i, ++lane) lanes[lane] += square(load(gradient[i]) * scale);
    total.gradient += sum_lanes(lanes);
  }
  return total;
}

template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
TORCHCLIP_CLONES Partial direction_norm_loop(const Operands& operands, const Row& row) {
  using C = ComputeType<T>;
  const auto pipeline = narrow<C>(row.pipeline);
  const auto rule = narrow_rule<Functor, C>(row);
  const T* const parameter = static_cast<const T*>(operands.pointer[kParameter]);
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  const Streams<Functor, Slots, T, S> streams(operands);
  const auto measure = [&](int64_t i, C& gradient_sum, C& direction_sum) __attribute__((always_inline)) {
    C state[Functor::kSlots] = {};
    streams.read(i, state);
    const C before = (Stages & kCoupledDecay) != 0 ? load(parameter[i]) : C(0);
    const C seen = prepare<Stages>(pipeline, load(gradient[i]), before);
    Functor::template accumulate<Slots>(rule, seen, state);
    const C direction = Functor::template measured<Slots>(seen, state);
    gradient_sum += square(seen);
    direction_sum += square(direction);
  };
  Partial total;
  for (int64_t begin = 0; begin < operands.count; begin += kNormBlock) {
    const int64_t end = begin + kNormBlock < operands.count ? begin + kNormBlock : operands.count;
    C gradient_lanes[kLanes] = {}, direction_lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (int lane = 0; lane < kLanes; ++lane) measure(i + lane, gradient_lanes[lane], direction_lanes[lane]);
    for (int lane = 0; i < end; ++i, ++lane) measure(i, gradient_lanes[lane], direction_lanes[lane]);
    total.gradient += sum_lanes(gradient_lanes);
    total.direction += sum_lanes(direction_lanes);
  }
  return total;
}

}  // namespace torchclip::cpu
