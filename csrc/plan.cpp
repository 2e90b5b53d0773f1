#include "plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "cpu/parallel.h"

namespace torchclip {
Plan::Plan(const std::string& rule, const Names& names, Scope scope)
    : rule_(*find_rule(rule)), scope_(scope), members_(names, rule_.used_slots) {}

void Plan::mark_fresh(const std::vector<int64_t>& positions) {
  fresh_ = positions;
  for (const int64_t position : fresh_) members_.all()[static_cast<size_t>(position)].fresh = true;
}

std::vector<unsigned> Plan::stages_of(const Clip& clip) const {
  std::vector<unsigned> stages;
  for (const Group& group : members_.groups()) {
    const bool decays = group.pipeline[kWeightDecay] != 0 && group.pipeline[kDecoupled] == 0;
    stages.push_back((clip.kind == ClipKind::kValue ? kValueClip : 0u) | (decays ? kCoupledDecay : 0u));
  }
  return stages;
}

size_t Plan::unit_count(Scope scope) const {
  if (scope == Scope::kOptimizer) return 1;
  return scope == Scope::kGroup ? members_.groups().size() : members_.all().size();
}

size_t Plan::unit_of(Scope scope, const TensorEntry& tensor) const {
  if (scope == Scope::kOptimizer) return 0;
  return static_cast<size_t>(scope == Scope::kGroup ? tensor.group : tensor.member);
}

// Tensors, buckets, chunks and tasks: what depends on the active parameters and their geometry.
void Plan::rebuild_tables(const std::vector<unsigned>& stages) {
  const std::vector<Member>& members = members_.all();
  stages_ = stages;
  tables_ = Tables{};
  loops_.clear();
  zeros_.resize(members.size());
  for (size_t position = 0; position < members.size(); ++position) {
    const Member& member = members[position];
    if (!member.active) continue;
    const Bucket bucket{member.group, member.dtype, member.state_dtype, member.used_slots,
                        stages[static_cast<size_t>(member.group)]};
    auto found = std::find(tables_.buckets.begin(), tables_.buckets.end(), bucket);
    if (found == tables_.buckets.end()) {
      loops_.push_back(cpu::find_loops(rule_.name, bucket));
      TORCH_INTERNAL_ASSERT(loops_.back().update != nullptr, "no loop is compiled for a bucket of rule ", rule_.name);
      found = tables_.buckets.insert(tables_.buckets.end(), bucket);
    }
    TensorEntry tensor;
    tensor.numel = member.parameter().numel();
    tensor.strided = member.layout.get();
    tensor.member = static_cast<int32_t>(position);
    tensor.group = member.group;
    tensor.bucket = static_cast<int32_t>(found - tables_.buckets.begin());
    tables_.tensors.push_back(tensor);
  }
  tables_.map_chunks();
}

// This step's addresses and numbers of state, copied from the members by the threads that have just read them.
void Plan::fill_tensors() {
  standings_.resize(tables_.tensors.size());
  cpu::for_each_item(static_cast<int64_t>(tables_.tensors.size()), [this](int64_t index) {
    TensorEntry& tensor = tables_.tensors[static_cast<size_t>(index)];
    const Member& member = members_.all()[static_cast<size_t>(tensor.member)];
    std::copy(member.operands, member.operands + kOperands, tensor.operands);
    Standing& standing = standings_[static_cast<size_t>(index)];
    standing = {member.group, member.fresh, {}};
    for (size_t i = 0; i < rule_.scalars.size(); ++i) standing.scalars[i] = member.scalar(i);
  });
}

// Parameters of a group that stand at the same step share their coefficients. Neighbours nearly always do, so the
// newest cohort is tried first.
int32_t Plan::cohort_of(const Standing& standing) {
  for (size_t index = cohorts_.size(); index-- > 0;)
    if (cohorts_[index].standing == standing) return static_cast<int32_t>(index);
  Cohort cohort{standing, standing.scalars, {}};
  rule_.compute(hyperparameters_of(cohort), cohort.after.data(), standing.first, DirectionNorms{}, cohort.coefficients);
  cohorts_.push_back(cohort);
  return static_cast<int32_t>(cohorts_.size()) - 1;
}

const double* Plan::hyperparameters_of(const Cohort& cohort) const {
  return members_.groups()[static_cast<size_t>(cohort.standing.group)].hyperparameters.data();
}

Row Plan::make_row(const Cohort& cohort, const Clip& clip, double inverse_grad_scale) const {
  const std::vector<double>& group = members_.groups()[static_cast<size_t>(cohort.standing.group)].pipeline;
  const double lr = group[kLr], weight_decay = group[kWeightDecay];
  const bool decoupled = group[kDecoupled] != 0;
  Row row{};
  row.pipeline.gradient_scale = group[kMaximize] != 0 ? -inverse_grad_scale : inverse_grad_scale;
  row.pipeline.value_limit = clip.limit;
  row.pipeline.weight_decay = decoupled ? 0.0 : weight_decay;
  row.pipeline.shrink = decoupled ? 1.0 - lr * weight_decay : 1.0;
  std::copy(cohort.coefficients, cohort.coefficients + kMaxCoefficients, row.rule);
  return row;
}

// One row per cohort, or per tensor when a norm is taken per tensor.
void Plan::fill_rows(const Clip& clip, double inverse_grad_scale) {
  const bool per_tensor = (clip.kind == ClipKind::kNorm && clip.scope == Scope::kTensor) ||
                          (rule_.clips_itself && scope_ == Scope::kTensor);
  cohorts_.clear();
  origins_.clear();
  tables_.rows.clear();
  tables_.tensor_rows.resize(tables_.tensors.size());
  for (size_t index = 0; index < standings_.size(); ++index) {
    const int32_t cohort = cohort_of(standings_[index]);
    const int32_t row = per_tensor ? static_cast<int32_t>(index) : cohort;
    tables_.tensor_rows[index] = row;
    if (static_cast<size_t>(row) < tables_.rows.size()) continue;
    const Cohort& source = cohorts_[static_cast<size_t>(cohort)];
    tables_.rows.push_back(make_row(source, clip, inverse_grad_scale));
    origins_.push_back({static_cast<int32_t>(index), cohort, source.after});
  }
}

// One norm pass; the partial sums of each unit of the scope are added in the order of the chunks.
std::vector<Partial> Plan::sum_units(cpu::Measure measure, Scope scope) {
  {
    py::gil_scoped_release release;
    cpu::norm_pass(tables_, loops_, measure, partials_);
  }
  std::vector<Partial> sums(unit_count(scope));
  for (size_t chunk = 0; chunk < partials_.size(); ++chunk) {
    const TensorEntry& tensor = tables_.tensors[static_cast<size_t>(tables_.chunks[chunk].tensor)];
    sums[unit_of(scope, tensor)].add(partials_[chunk]);
  }
  return sums;
}

// Applies the clip policy to the rows. Returns false when a norm is not finite.
bool Plan::clip_gradients(const Clip& clip) {
  const std::vector<Partial> sums = sum_units(cpu::Measure::kRawGradient, clip.scope);
  norms_.assign(sums.size(), 0.0);
  factors_.assign(sums.size(), 1.0);  // where no gradient is, nothing is clipped
  bool finite = true;
  std::vector<char> seen(sums.size(), 0);
  for (const TensorEntry& tensor : tables_.tensors) {
    const size_t unit = unit_of(clip.scope, tensor);
    if (std::exchange(seen[unit], 1) != 0) continue;
    norms_[unit] = std::sqrt(sums[unit].gradient);
    factors_[unit] = clip_factor(norms_[unit], clip.limit, clip.smooth);
    finite &= std::isfinite(norms_[unit]);
  }
  for (size_t row = 0; row < tables_.rows.size(); ++row) {
    const TensorEntry& tensor = tables_.tensors[static_cast<size_t>(origins_[row].tensor)];
    tables_.rows[row].pipeline.gradient_scale *= factors_[unit_of(clip.scope, tensor)];
  }
  return finite;
}

// Sets the step sizes of a rule that clips itself. `report`: its norms are what grad_norm and clip_factor show; where
// groups share a norm and differ in their hyperparameters, the factor is the first group's.
void Plan::clip_direction(bool report) {
  const std::vector<Partial> sums = sum_units(cpu::Measure::kDirection, scope_);
  if (report) {
    norms_.clear();
    for (const Partial& sum : sums) norms_.push_back(std::sqrt(sum.gradient));
    factors_.assign(sums.size(), 1.0);
  }
  for (size_t row = tables_.rows.size(); row-- > 0;) {
    RowOrigin& origin = origins_[row];
    const Cohort& cohort = cohorts_[static_cast<size_t>(origin.cohort)];
    const size_t unit = unit_of(scope_, tables_.tensors[static_cast<size_t>(origin.tensor)]);
    const DirectionNorms norms{std::sqrt(sums[unit].gradient), std::sqrt(sums[unit].direction)};
    origin.after = cohort.standing.scalars;
    rule_.compute(hyperparameters_of(cohort), origin.after.data(), cohort.standing.first, norms,
                  tables_.rows[row].rule);
    if (report) factors_[unit] = rule_.direction_factor(hyperparameters_of(cohort), norms);
  }
}

Outcome Plan::step(const Clip& clip, double inverse_grad_scale, bool found_inf) {
  const Outcome outcome = try_step(clip, inverse_grad_scale, found_inf);
  for (const int64_t position : std::exchange(fresh_, {})) members_.all()[static_cast<size_t>(position)].fresh = false;
  return outcome;
}

Outcome Plan::try_step(const Clip& clip, double inverse_grad_scale, bool found_inf) {
  const std::vector<unsigned> stages = stages_of(clip);
  if (members_.take_changed() || stages != stages_) rebuild_tables(stages);
  fill_tensors();
  fill_rows(clip, inverse_grad_scale);
  const bool clips = clip.kind == ClipKind::kNorm;
  if (clips && !clip_gradients(clip) && clip.nonfinite != NonFinite::kPropagate)
    return clip.nonfinite == NonFinite::kSkip ? Outcome::kSkipped : Outcome::kNonFinite;
  if (rule_.clips_itself) clip_direction(!clips);
  if (found_inf) return Outcome::kSkipped;
  {
    py::gil_scoped_release release;
    cpu::update_pass(tables_, loops_, chunk_zeros_);
  }
  commit();
  return Outcome::kStepped;
}

// What a step changes besides the elements: scalars, the count of zeros, and autograd's version counters.
void Plan::commit() {
  cpu::for_each_item(static_cast<int64_t>(tables_.tensors.size()), [this](int64_t index) {
    const size_t position = static_cast<size_t>(tables_.tensors[static_cast<size_t>(index)].member);
    const Member& member = members_.all()[position];
    const int32_t row = tables_.tensor_rows[static_cast<size_t>(index)];
    const Scalars& after = origins_[static_cast<size_t>(row)].after;
    for (size_t i = 0; i < rule_.scalars.size(); ++i) member.set_scalar(i, after[i]);
    c10::TensorImpl* const parameter = member.parameter().unsafeGetTensorImpl();
    parameter->bump_version();
    if (rule_.counts_zeros) zeros_[position] = {0, parameter->version_counter().current_version()};
  });
  if (!rule_.counts_zeros) return;
  for (size_t chunk = 0; chunk < tables_.chunks.size(); ++chunk) {
    const TensorEntry& tensor = tables_.tensors[static_cast<size_t>(tables_.chunks[chunk].tensor)];
    zeros_[static_cast<size_t>(tensor.member)].count += chunk_zeros_[chunk];
  }
}

std::vector<int64_t> Plan::zeros() const {
  std::vector<int64_t> counts;
  for (size_t position = 0; position < zeros_.size() && position < members_.all().size(); ++position) {
    const auto& version = members_.all()[position].parameter().unsafeGetTensorImpl()->version_counter();
    counts.push_back(version.current_version() == zeros_[position].version ? zeros_[position].count : -1);
  }
  return counts;
}

}  // namespace torchclip
