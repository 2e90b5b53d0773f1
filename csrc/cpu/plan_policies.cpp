// What the policies of a step on the CPU make of its norms and its loss: factors, and whether it is skipped.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "../policies.h"
#include "../steering.h"
#include "../step/buffer.h"
#include "plan.h"

namespace torchclip {
namespace {

// By size, a NaN above all: without an order of its own it would lead the search past the end.
bool is_below(double a, double b) { return a < b || (std::isnan(b) && !std::isnan(a)); }

// Linear interpolation between the two nearest ranks. `values` is put in another order; it is not empty.
double percentile_of(std::vector<double> values, double percentile) {
  const double rank = percentile / 100 * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(values.begin(), below, values.end(), is_below);
  const double lower = *below, share = rank - std::floor(rank);
  if (share == 0) return lower;
  return lower + share * (*std::min_element(below + 1, values.end(), is_below) - lower);
}

}  // namespace

// The factor of a unit that has a gradient.
double Plan::factor_of(size_t unit, double norm) {
  const GroupClip clip = clip_of(unit);
  switch (modifiers_.clip_kind()) {
    case ClipKind::kNorm:
      return clip_factor(norm, clip.limit, clip.smooth != 0);
    case ClipKind::kPercentile:
    case ClipKind::kZScore:
      return adaptive_factor(norm);
    case ClipKind::kTensorBound: {
      if (shared_.bounds.empty()) {
        const GroupState shared(reader_.groups().front().dict);
        const int64_t length = static_cast<int64_t>(reader_.records().size());
        const double* const bounds = shared.numbers("norm_bounds", length);
        shared_.bounds.assign(bounds, bounds + length);
        shared_.bounded_steps = shared.count("norm_count") + 1;
      }
      const TensorBoundSettings settings{modifiers_.limit, modifiers_.relative_limit, modifiers_.z_alpha,
                                         modifiers_.z_warmup};
      return tensor_bound_factor(norm, std::sqrt(shared_.joint_square), shared_.bounded_steps, settings,
                                 shared_.bounds[unit]);
    }
    default:
      return 1.0;  // the norm is measured for the step size, or to skip
  }
}

// Whether SkipSpikes finds a value that stands out, or is not finite. The others are remembered, whatever becomes of
// the step.
bool Plan::find_spikes(double loss) {
  struct Memory {
    double value;
    double* values;  // [length]
    double* count;
  };
  const GroupState shared(reader_.groups().front().dict);
  const int64_t length = static_cast<int64_t>(modifiers_.skip_window);
  const auto memory_of = [&](double value, const char* name, const char* count_name) {
    shared.count(count_name);  // which checks it
    return Memory{value, shared.numbers(name, length), shared.numbers(count_name)};
  };
  const auto stands_out = [&](const Memory& memory) {
    if (!is_finite(memory.value)) return true;
    const int64_t count = whole_number(*memory.count), held = std::min(count, length);
    const double mean = std::accumulate(memory.values, memory.values + held, 0.0) / static_cast<double>(held);
    double squares = 0;
    for (int64_t i = 0; i < held; ++i) squares += square(memory.values[i] - mean);
    const double deviation = std::sqrt(squares / static_cast<double>(held - 1));
    memory.values[count % length] = memory.value;
    *memory.count += 1;
    return !is_unjudged(static_cast<double>(held), modifiers_.skip_window) &&
           memory.value - mean > modifiers_.skip_sigma * deviation;
  };
  std::vector<Memory> memories;  // of both, before one is written: the other may be refused
  if (modifiers_.skip_norm != 0)
    memories.push_back(memory_of(std::sqrt(shared_.joint_square), "skip_norms", "skip_norm_count"));
  if (modifiers_.skip_loss != 0) memories.push_back(memory_of(loss, "skip_losses", "skip_loss_count"));
  bool found = false;
  for (const Memory& memory : memories) found |= stands_out(memory);
  return found;
}

// The factor of a policy that remembers norms; what it remembers after the step is left in shared_.
double Plan::adaptive_factor(double norm) {
  const GroupState shared(reader_.groups().front().dict);
  const double count = shared.count("norm_count");
  if (modifiers_.clip_kind() == ClipKind::kZScore) {
    const ZClipSettings settings{modifiers_.z_alpha, modifiers_.z_threshold, modifiers_.z_warmup, modifiers_.z_eps,
                                 modifiers_.limit};
    shared_.averages = {count, *shared.numbers("norm_mean"), *shared.numbers("norm_variance")};
    return factor_to(norm, z_clip_bound(norm, settings, shared_.averages));
  }
  const int64_t length = static_cast<int64_t>(modifiers_.window);
  const double* const window = shared.numbers("norm_window", length);
  shared_.window.assign(window, window + length);
  shared_.window_count = count;
  if (is_remembered(norm)) {
    shared_.window[static_cast<size_t>(whole_number(count) % length)] = norm;
    shared_.window_count += 1;
  }
  const auto remembered = static_cast<std::ptrdiff_t>(std::min(shared_.window_count, modifiers_.window));
  if (remembered == 0) return 1.0;
  const auto begin = shared_.window.begin();
  return clip_factor(norm, percentile_of({begin, begin + remembered}, modifiers_.percentile), false);
}

// Returns the factor, of the first group. It comes after the clip policy, which measures the gradient as it is.
double Plan::scale_gradients_by_step_size() {
  const GroupState shared(reader_.groups().front().dict);
  const bool takes_loss = modifiers_.step_size_kind() != StepSizeKind::kSqrt;
  if (takes_loss && sharing_ && sharing_.loss_share != 0 && !has_asked_) exchange_common();
  if (modifiers_.step_size_kind() == StepSizeKind::kPolyak) {
    const double before = modifiers_.growth > 0 ? *shared.numbers("polyak_step") : 0.0;
    const double step = polyak_step(common_[kLoss], shared_.clipped_square, modifiers_.c, modifiers_.alpha,
                                    modifiers_.step_eps, modifiers_.growth, before);
    shared_.polyak = is_finite(step) && is_finite(common_[kLoss]) ? step : before;
    for (size_t set = 0; set < tables_.coefficients.size(); ++set) {
      const size_t group = static_cast<size_t>(tables_.tensors[static_cast<size_t>(origins_[set].tensor)].group);
      tables_.coefficients[set].pipeline.gradient_scale *= polyak_factor(step, reader_.groups()[group].pipeline[kLr]);
    }
    return polyak_factor(step, reader_.groups().front().pipeline[kLr]);
  }
  double b_squared = square(modifiers_.b0) + modifiers_.alpha * shared_.step;
  if (modifiers_.step_size_kind() == StepSizeKind::kLoss) {
    b_squared = shared_.b_squared =
        add_loss(*shared.numbers("b_squared"), common_[kLoss], modifiers_.alpha, modifiers_.c);
  }
  const double factor = 1.0 / std::sqrt(b_squared);
  for (Coefficients& coefficients : tables_.coefficients) {
    coefficients.pipeline.gradient_scale *= factor;
    coefficients.pipeline.value_limit *= factor;
  }
  return factor;
}

// Of a parameter: as the last step has left them, or whoever has written it since.
int64_t Plan::count_zeros_in(size_t position) const {
  const ParameterRecord& record = reader_.records()[position];
  const int64_t known = zeros_in(position, record.operands.pointer[kParameter]);
  if (known >= 0) return known;
  return record.operands.count - to_int(torch_function("count_nonzero")(record.object).call("item").get());
}

// In all processes, where these have been asked.
std::vector<ZeroCount> Plan::count_zeros() const {
  std::vector<ZeroCount> counts(reader_.groups().size());
  if (sharing_) {
    for (size_t cell = 0; cell < sharing_.zeros.units.size(); ++cell) {
      ZeroCount& count = counts[static_cast<size_t>(sharing_.zeros.units[cell])];
      count.zeros += zeros_of_cells_[cell].zeros;
      count.elements += zeros_of_cells_[cell].elements;
    }
    return counts;
  }
  for (const TensorEntry& tensor : tables_.tensors) {
    if (!reader_.groups()[static_cast<size_t>(tensor.group)].has_target()) continue;
    const size_t position = static_cast<size_t>(tensor.parameter);
    ZeroCount& count = counts[static_cast<size_t>(tensor.group)];
    count.zeros += static_cast<double>(count_zeros_in(position));
    count.elements += static_cast<double>(reader_.records()[position].operands.count);
  }
  return counts;
}

// By the factor of each group: where a target steers it, it moves by the zeros that are there, unless the group's
// parameters cannot move, or it has no threshold.
void Plan::scale_thresholds() {
  const std::vector<Group>& groups = reader_.groups();
  const std::vector<ZeroCount> counts = any_target(groups) ? count_zeros() : std::vector<ZeroCount>(groups.size());
  for (size_t index = 0; index < groups.size(); ++index) {
    const GroupState own(groups[index].dict);
    const bool has_target = groups[index].has_target();
    double scale = has_target || own.has(kThresholdScale) ? own.positive(kThresholdScale) : 1.0;
    if (has_target && counts[index].elements > 0 && groups[index].pipeline[kLr] != 0 && groups[index].has_threshold())
      scale = steered_scale(scale, groups[index].target, counts[index].zeros / counts[index].elements);
    shared_.threshold_scales.push_back(scale);
  }
  for (size_t index = 0; index < tables_.coefficients.size(); ++index) {
    const TensorEntry& tensor = tables_.tensors[static_cast<size_t>(origins_[index].tensor)];
    tables_.coefficients[index].rule[kThreshold] *= shared_.threshold_scales[static_cast<size_t>(tensor.group)];
  }
}

}  // namespace torchclip
