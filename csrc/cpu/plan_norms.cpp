// The norms of a step, and what clip policies and rules that clip themselves make of them.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "../policies.h"
#include "../rules/momentum.h"
#include "plan.h"

namespace torchclip {

// One norm pass; the partial sums of each unit of the scope are added in the order of the chunks.
std::vector<UnitSum> Plan::sum_units(cpu::Measure measure, Scope scope, const Cells& cells) {
  {
    const auto released = release_gil();
    cpu::norm_pass(tables_, loops_, measure, false, partials_);
  }
  std::vector<UnitSum> units(unit_count(scope, reader_));
  if (sharing_) {
    share_units(units, cells);
    return units;
  }
  if (scope == Scope::kOptimizer) {  // without a look at the tensors
    Partial total;
    for (const Partial& partial : partials_) total.add(partial);
    units[0] = {total, static_cast<double>(tables_.tensors.size())};
    return units;
  }
  for (size_t chunk = 0; chunk < partials_.size(); ++chunk) {
    const TensorEntry& tensor = tables_.tensors[static_cast<size_t>(tables_.chunks[chunk].tensor)];
    units[unit_of(scope, tensor.group, tensor.parameter)].Partial::add(partials_[chunk]);
  }
  for (const TensorEntry& tensor : tables_.tensors) units[unit_of(scope, tensor.group, tensor.parameter)].count += 1;
  return units;
}

// The same for each row of all tensors.
Plan::RowSums Plan::sum_rows(cpu::Measure measure) {
  {
    const auto released = release_gil();
    cpu::norm_pass(tables_, loops_, measure, true, partials_);
  }
  RowSums sums;
  sums.rows.resize(static_cast<size_t>(tables_.row_total));
  sums.rest.resize(tables_.tensors.size());
  for (size_t chunk = 0; chunk < tables_.chunks.size(); ++chunk) {
    const RowSpan& span = tables_.row_spans[chunk];
    const size_t tensor = static_cast<size_t>(tables_.chunks[chunk].tensor);
    const RowMap& map = tables_.row_maps[tensor];
    const Partial* const partials = &partials_[static_cast<size_t>(span.partial)];
    if (span.count == 0) {
      sums.rest[tensor].add(partials[0]);
      sums.total.add(partials[0]);
    }
    for (int64_t row = 0; row < span.count; ++row) {
      sums.rows[static_cast<size_t>(map.first + span.first + row)].add(partials[row]);
      sums.total.add(partials[row]);
    }
  }
  return sums;
}

// Applies the clip policy to the coefficients. Returns what is to be done about norms that are not finite; kPropagate
// where all are.
NonFinite Plan::clip_gradients() { return modifiers_.clip_kind() == ClipKind::kUnit ? clip_by_rows() : clip_by_norm(); }

// The policy of a unit of a scope.
GroupClip Plan::clip_of(size_t unit) const {
  if (!group_clips_.empty()) return group_clips_[unit];
  return {modifiers_.limit, 0, modifiers_.smooth != 0 ? 1 : 0, static_cast<int32_t>(modifiers_.nonfinite)};
}

// The sums of groups that are in one norm are added, in their order, and each of them gets the whole. A group of which
// no norm is taken then counts no tensors.
void Plan::join_groups(std::vector<UnitSum>& units) const {
  for (size_t group = 0; group < units.size(); ++group) {
    const int32_t unit = group_clips_[group].unit;
    if (unit < 0) {
      units[group].count = 0;
      continue;
    }
    const size_t first = static_cast<size_t>(unit);
    for (size_t other = group + 1; group == first && other < units.size(); ++other)
      if (group_clips_[other].unit == unit) units[group].add(units[other]);
    units[group] = units[first];
  }
}

NonFinite Plan::clip_by_norm() {
  const Scope scope = modifiers_.scope();
  std::vector<UnitSum> units = given_norm_.has_value() ? std::vector<UnitSum>{{{square(*given_norm_), 0}, 1}}
                                                       : sum_units(cpu::Measure::kRawGradient, scope, sharing_.policy);
  std::vector<double> own;  // of each unit, before groups are joined
  for (const UnitSum& sum : units) own.push_back(sum.gradient);
  shared_.joint_square = std::accumulate(own.begin(), own.end(), 0.0);
  if (!group_clips_.empty()) join_groups(units);
  report_.is_single = scope == Scope::kOptimizer;
  report_.grad_norm.assign(units.size(), 0.0);
  report_.clip_factor.assign(units.size(), 1.0);  // where no gradient is, nothing is clipped
  NonFinite nonfinite = NonFinite::kPropagate;
  for (size_t unit = 0; unit < units.size(); ++unit) {
    if (units[unit].count == 0) continue;
    const GroupClip clip = clip_of(unit);
    const double norm = report_.grad_norm[unit] = given_norm_.value_or(std::sqrt(units[unit].gradient));
    report_.clip_factor[unit] = factor_of(unit, norm);
    if (!std::isfinite(norm)) nonfinite = std::max(nonfinite, static_cast<NonFinite>(clip.nonfinite));
  }
  for (size_t unit = 0; unit < own.size(); ++unit)
    shared_.clipped_square += square(report_.clip_factor[unit]) * own[unit];
  // Of a tensor that another process alone holds.
  if (scope == Scope::kTensor && common_[kLost] > 0) nonfinite = std::max(nonfinite, modifiers_.on_nonfinite());
  for (size_t set = 0; set < tables_.coefficients.size(); ++set) {
    const TensorEntry& tensor = tables_.tensors[static_cast<size_t>(origins_[set].tensor)];
    tables_.coefficients[set].pipeline.gradient_scale *=
        report_.clip_factor[unit_of(scope, tensor.group, tensor.parameter)];
  }
  return nonfinite;
}

// AdaptiveGradientClip: a factor for each row, reported as one for all.
NonFinite Plan::clip_by_rows() {
  RowSums sums = sum_rows(cpu::Measure::kWeight);
  if (sharing_) share_rows(sums, sharing_.policy, /*of_policy=*/true);
  tables_.row_gradient_factors.resize(sums.rows.size());
  double clipped = sharing_ ? sums.total.direction : 0;
  for (size_t row = 0; row < sums.rows.size(); ++row) {
    const double factor = tables_.row_gradient_factors[row] = unit_factor(sums.rows[row]);
    if (!sharing_) clipped += square(factor) * sums.rows[row].gradient;
  }
  const double norm = std::sqrt(sums.total.gradient);
  shared_.joint_square = sums.total.gradient;
  shared_.clipped_square = clipped;
  report_.grad_norm = {norm};
  report_.clip_factor = {norm == 0 ? 1.0 : std::sqrt(clipped) / norm};
  return std::isfinite(norm) ? NonFinite::kPropagate : modifiers_.on_nonfinite();
}

double Plan::unit_factor(const Partial& row) const {
  return unit_clip_factor(std::sqrt(row.gradient), std::sqrt(row.direction), modifiers_.limit, modifiers_.unit_eps);
}

// The norms of a unit of the rule's scope, and with them what its sum is after the step.
DirectionNorms Plan::norms_of(size_t unit, const Partial& sum) {
  DirectionNorms norms{std::sqrt(sum.gradient), std::sqrt(sum.direction)};
  if (rule_.sums_norms) norms.root_factor = 1.0 / std::sqrt(shared_.sums[unit]);
  return norms;
}

// Sets the step sizes of a rule that clips itself. `report`: its norms are what grad_norm and clip_factor show; where
// groups share a norm and differ in their hyperparameters, the factor is the first group's.
void Plan::clip_direction(bool report) {
  if (scope_ == Scope::kRow) return clip_row_steps(report);
  const std::vector<UnitSum> sums = sum_units(cpu::Measure::kDirection, scope_, sharing_.rule);
  if (rule_.sums_norms) {
    shared_.sums.resize(sums.size());
    for (size_t unit = 0; unit < sums.size(); ++unit) {
      double sum = 1;
      if (scope_ == Scope::kTensor) {
        const ParameterRecord& record = reader_.records()[unit];
        if (record.active) sum = record.extra->sum(0);
      } else {
        sum = *GroupState(reader_.groups()[unit].dict).numbers("sum");
      }
      shared_.sums[unit] = sum + sums[unit].gradient;
    }
  }
  report_.is_single_direction = scope_ == Scope::kOptimizer;
  for (const UnitSum& sum : sums) report_.direction_norm.push_back(std::sqrt(sum.direction));
  if (report) {
    report_.is_single = scope_ == Scope::kOptimizer;
    for (const UnitSum& sum : sums) report_.grad_norm.push_back(std::sqrt(sum.gradient));
    report_.clip_factor.assign(sums.size(), 1.0);
  }
  for (size_t set = tables_.coefficients.size(); set-- > 0;) {
    CoefficientOrigin& origin = origins_[set];
    const Cohort& cohort = cohorts_[static_cast<size_t>(origin.cohort)];
    const TensorEntry& tensor = tables_.tensors[static_cast<size_t>(origin.tensor)];
    const size_t unit = unit_of(scope_, tensor.group, tensor.parameter);
    const DirectionNorms norms = norms_of(unit, sums[unit]);
    origin.after = cohort.standing.scalars;
    rule_.compute(hyperparameters_of(cohort), origin.after.data(), cohort.standing.first, norms,
                  tables_.coefficients[set].rule);
    if (report) report_.clip_factor[unit] = rule_.direction_factor(hyperparameters_of(cohort), norms);
  }
  if (report && report_.is_single && (!tables_.tensors.empty() || common_[kGradients] > 0))
    report_.clip_factor[0] =
        rule_.direction_factor(reader_.groups().front().hyperparameters.data(), norms_of(0, sums[0]));
}

// The same for a rule that has a sum for each row: a factor on the step of each. Below two dimensions the update pass
// keeps the sums, element by element.
void Plan::clip_row_steps(bool report) {
  RowSums all = sum_rows(cpu::Measure::kDirection);
  if (sharing_) share_rows(all, sharing_.rule, /*of_policy=*/false);
  const auto& [sums, rest, total] = all;
  shared_.sums.assign(sums.size(), 0.0);
  tables_.row_step_factors.assign(sums.size(), 1.0);
  for (size_t tensor = 0; tensor < tables_.tensors.size(); ++tensor) {
    const RowMap& map = tables_.row_maps[tensor];
    const RecordExtra* const extra =
        reader_.records()[static_cast<size_t>(tables_.tensors[tensor].parameter)].extra.get();
    for (int64_t row = 0; extra != nullptr && extra->sums && row < map.rows.count; ++row) {
      const size_t index = static_cast<size_t>(map.first + row);
      shared_.sums[index] = extra->sum(row) + sums[index].gradient;
      tables_.row_step_factors[index] = 1.0 / (std::sqrt(shared_.sums[index]) + kRowEps);
    }
  }
  report_.direction_norm = {std::sqrt(total.direction)};
  if (!report) return;
  report_.grad_norm = {std::sqrt(total.gradient)};
  report_.clip_factor = {1.0};
}

}  // namespace torchclip
