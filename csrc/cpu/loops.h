// The loops over the elements of one chunk. A plain loop over a scalar functor, which the compiler vectorises for each
// instruction set.
#pragma once

#include <type_traits>

#include "../rules/registry.h"
#include "../step/coefficients.h"
#include "clones.h"
#include "extensions.h"

namespace torchclip::cpu {

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
TORCHCLIP_HD int64_t update_elements(const Operands& operands, const Coefficients& coefficients) {
  using C = ComputeType<T>;
  const auto pipeline = narrow<C>(coefficients.pipeline);
  const auto rule = narrow_rule<Functor, C>(coefficients);
  T* const parameter = static_cast<T*>(operands.pointer[kParameter]);
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  const Streams<Functor, Slots, T, S> streams(operands);
  const int64_t count = operands.count;
  int32_t zeros = 0;
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) {
    C state[Functor::kSlots] = {};
    streams.read(i, state);
    const C before = kNeedsParameter<Functor, Stages> ? load(parameter[i]) : C(0);
    const C after = update<Functor, Slots, Stages>(pipeline, rule, before, load(gradient[i]), Draws{}, state);
    streams.write(i, state);
    const T stored = store<T>(after);
    parameter[i] = stored;
    if constexpr (Functor::kCountsZeros) zeros += load(stored) == C(0);
  }
  return zeros;
}

template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
TORCHCLIP_CLONES int64_t update_loop(const Operands& operands, const Coefficients& coefficients) {
  return update_elements<Functor, Slots, Stages, T, S>(operands, coefficients);
}

// The same a piece at a time, with what happens around the rule.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
TORCHCLIP_CLONES int64_t update_pieces_loop(const Operands& operands, const Coefficients& coefficients,
                                            const Extensions& extensions) {
  using C = ComputeType<T>;
  auto pipeline = narrow<C>(coefficients.pipeline);
  pipeline.gradient_scale = C(1);  // the prepared gradients have it
  const auto rule = narrow_rule<Functor, C>(coefficients);
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  const Streams<Functor, Slots, T, S> streams(operands);
  alignas(64) C gradients[kPiece];
  alignas(64) uint32_t words[kPiece] = {};
  const bool drops_steps = extensions.drops_steps();
  const uint32_t threshold = extensions.extras().lr_threshold;
  int64_t zeros = 0;
  for (int64_t done = 0; done < operands.count;) {
    const int64_t count = extensions.piece_count(done, operands.count);
    T* const parameter = static_cast<T*>(operands.pointer[kParameter]) + done;
    extensions.prepare(gradient + done, done, count, coefficients, gradients);
    if (drops_steps) extensions.draw_steps(done, count, words);
    // A loop for each: the compiler vectorises none of those that it would have to make two of.
    const auto pass = [&](auto drops) __attribute__((always_inline)) {
      int32_t piece_zeros = 0;
      TORCHCLIP_NO_ALIAS
      for (int64_t i = 0; i < count; ++i) {
        C state[Functor::kSlots] = {};
        streams.read(done + i, state);
        const C before = kNeedsParameter<Functor, Stages> ? load(parameter[i]) : C(0);
        Draws draws;
        if constexpr (decltype(drops)::value) draws.keeps_step = keeps(words[i], threshold);
        constexpr unsigned kStages = decltype(drops)::value ? Stages | kLRDropout : Stages;
        const C after = update<Functor, Slots, kStages>(pipeline, rule, before, gradients[i], draws, state);
        streams.write(done + i, state);
        const T stored = store<T>(after);
        parameter[i] = stored;
        if constexpr (Functor::kCountsZeros) piece_zeros += load(stored) == C(0);
      }
      return piece_zeros;
    };
    zeros += drops_steps ? pass(std::true_type{}) : pass(std::false_type{});
    extensions.synchronise(static_cast<C*>(operands.pointer[kSlow]) + done, count, parameter);
    done += count;
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
TORCHCLIP_CLONES int64_t scale_loop(const Operands& operands, const Coefficients& coefficients) {
  const auto scale = static_cast<ComputeType<T>>(coefficients.pipeline.gradient_scale);
  T* const values = static_cast<T*>(operands.pointer[kParameter]);
  for (int64_t i = 0; i < operands.count; ++i) values[i] = store<T>(load(values[i]) * scale);
  return 0;
}

// The norms of other orders that torch.nn.utils offers. In double: they are rare, and powers of small numbers
// underflow.
template <class T>
Partial power_sum_loop(const Operands& operands, const Coefficients& coefficients) {
  const double order = coefficients.rule[0];
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  Partial total;
  for (int64_t i = 0; i < operands.count; ++i) {
    const double size = std::fabs(static_cast<double>(load(gradient[i])));
    total.gradient += order == 1 ? size : std::pow(size, order);
  }
  return total;
}

template <class T>
Partial largest_loop(const Operands& operands, const Coefficients&) {
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  Partial total;
  for (int64_t i = 0; i < operands.count; ++i)
    total.gradient = larger(total.gradient, std::fabs(static_cast<double>(load(gradient[i]))));
  return total;
}

template <class T>
TORCHCLIP_CLONES Partial raw_norm_loop(const Operands& operands, const Coefficients& coefficients) {
  using C = ComputeType<T>;
  const C scale = static_cast<C>(coefficients.pipeline.gradient_scale);
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

// G: the type of the gradients, which is T, or the compute type where they have been prepared in a buffer.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S, class G>
TORCHCLIP_CLONES Partial direction_norm_loop(const Operands& operands, const Coefficients& coefficients) {
  using C = ComputeType<T>;
  const auto pipeline = narrow<C>(coefficients.pipeline);
  const auto rule = narrow_rule<Functor, C>(coefficients);
  const T* const parameter = static_cast<const T*>(operands.pointer[kParameter]);
  const G* const gradient = static_cast<const G*>(operands.pointer[kGradient]);
  const Streams<Functor, Slots, T, S> streams(operands);
  const auto measure = [&](int64_t i, C& gradient_sum, C& direction_sum) __attribute__((always_inline)) {
    C state[Functor::kSlots] = {};
    streams.read(i, state);
    const C before = (Stages & kCoupledDecay) != 0 ? load(parameter[i]) : C(0);
    const C seen = prepare<Stages>(pipeline, load(gradient[i]), before, Draws{});
    Functor::template accumulate<Slots>(rule, seen, state);
    gradient_sum += square(seen);
    if constexpr (!Functor::template kMeasuresGradient<Slots>)
      direction_sum += square(Functor::template measured<Slots>(seen, state));
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
    if constexpr (!Functor::template kMeasuresGradient<Slots>) total.direction += sum_lanes(direction_lanes);
  }
  if constexpr (Functor::template kMeasuresGradient<Slots>) total.direction = total.gradient;
  return total;
}

// Sums of the squares of the gradient and, as the direction, of the parameter. For runs of up to a chunk.
template <class T>
TORCHCLIP_CLONES Partial weight_norm_loop(const Operands& operands, const Coefficients& coefficients) {
  using C = ComputeType<T>;
  const C scale = static_cast<C>(coefficients.pipeline.gradient_scale);
  const T* const parameter = static_cast<const T*>(operands.pointer[kParameter]);
  const T* const gradient = static_cast<const T*>(operands.pointer[kGradient]);
  C gradient_lanes[kLanes] = {}, parameter_lanes[kLanes] = {};
  Partial total;
  int64_t i = 0;
  for (; i + kLanes <= operands.count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      gradient_lanes[lane] += square(load(gradient[i + lane]) * scale);
      parameter_lanes[lane] += square(load(parameter[i + lane]));
    }
  }
  for (; i < operands.count; ++i) {
    total.gradient += square(static_cast<double>(load(gradient[i]) * scale));
    total.direction += square(static_cast<double>(load(parameter[i])));
  }
  total.gradient += sum_lanes(gradient_lanes);
  total.direction += sum_lanes(parameter_lanes);
  return total;
}

template <unsigned Stages, class T>
TORCHCLIP_CLONES void perturb_loop(const T* gradient, int64_t count, const Coefficients& coefficients,
                                   const uint32_t* words, uint32_t threshold, const float* normals,
                                   ComputeType<T>* out) {
  const auto pipeline = narrow<ComputeType<T>>(coefficients.pipeline);
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) {
    Draws draws;
    if constexpr ((Stages & kGradientDropout) != 0) draws.keeps_gradient = keeps(words[i], threshold);
    if constexpr ((Stages & kGradientNoise) != 0) draws.normal = normals[i];
    out[i] = perturb<Stages>(pipeline, load(gradient[i]), draws);
  }
}

template <class T>
TORCHCLIP_CLONES void average_loop(ComputeType<T>* average, int64_t count, double alpha, const T* parameter) {
  const auto weight = static_cast<ComputeType<T>>(alpha);
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) average[i] = synchronise(average[i], load(parameter[i]), weight);
}

template <class T>
TORCHCLIP_CLONES void synchronise_loop(ComputeType<T>* slow, int64_t count, double alpha, T* parameter) {
  const auto weight = static_cast<ComputeType<T>>(alpha);
  TORCHCLIP_NO_ALIAS
  for (int64_t i = 0; i < count; ++i) {
    const ComputeType<T> value = synchronise(slow[i], load(parameter[i]), weight);
    slow[i] = value;
    parameter[i] = store<T>(value);
  }
}

}  // namespace torchclip::cpu
