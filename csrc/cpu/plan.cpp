#include "plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "../policies.h"
#include "../step/make_coefficients.h"
#include "parallel.h"

namespace torchclip {
namespace {

// A pass over fewer elements takes less than a tenth of a millisecond or so.
constexpr int64_t kElementsWithGil = 1 << 18;
// For each tensor: over so many, holding its memory takes no time.
constexpr int64_t kElementsToHoldFor = 2048;

}  // namespace

Plan::Plan(const std::string& rule, const Names& names, Scope scope)
    : rule_(*find_rule(rule)),
      scope_(scope),
      reader_(rule_, names, sums_of(rule_, scope), kCpu, /*reads_numbers=*/true) {}

void Plan::configure(const Modifiers& modifiers, const std::vector<GroupClip>& group_clips) {
  modifiers_ = modifiers;
  group_clips_ = group_clips;
  reader_.configure(modifiers.lookahead_k != 0, modifiers.averages != 0, modifiers.clip_kind() == ClipKind::kUnit,
                    group_clips.size());
  finished_ = Report{};
  rebuild_ = true;
}

void Plan::share(Sharing sharing) {
  sharing_ = std::move(sharing);
  rebuild_ = true;
}

void Plan::mark_fresh(const std::vector<int64_t>& positions) {
  for (const int64_t position : positions) reader_.records()[static_cast<size_t>(position)].fresh = any_fresh_ = true;
}

// Read by the threads that have just read the records.
void Plan::fill_standings() {
  standings_.resize(tables_.tensors.size());
  cpu::for_each_item(static_cast<int64_t>(tables_.tensors.size()), [this](int64_t index) {
    const int32_t position = tables_.tensors[static_cast<size_t>(index)].parameter;
    const ParameterRecord& record = reader_.records()[static_cast<size_t>(position)];
    Standing& standing = standings_[static_cast<size_t>(index)];
    standing = {record.group, record.fresh, {}};
    for (size_t i = 0; i < rule_.scalars.size(); ++i) standing.scalars[i] = record.scalar(i);
  });
}

// Parameters of a group that stand at the same step share their coefficients. Neighbours nearly always do, so the
// newest cohort is tried first.
int32_t Plan::cohort_of(const Standing& standing) {
  for (size_t index = cohorts_.size(); index-- > 0;)
    if (cohorts_[index].standing == standing) return static_cast<int32_t>(index);
  cohorts_.push_back({standing, {}, {}});
  return static_cast<int32_t>(cohorts_.size()) - 1;
}

const double* Plan::hyperparameters_of(const Cohort& cohort) const {
  return reader_.groups()[static_cast<size_t>(cohort.standing.group)].hyperparameters.data();
}

Coefficients Plan::make_coefficients(const Cohort& cohort, double inverse_grad_scale) const {
  const std::vector<double>& group = reader_.groups()[static_cast<size_t>(cohort.standing.group)].pipeline;
  Coefficients made = torchclip::make_coefficients(group[kLr], group[kWeightDecay], group[kDecoupled] != 0,
                                                   group[kMaximize] != 0, modifiers_, shared_.step, inverse_grad_scale);
  std::copy(cohort.coefficients, cohort.coefficients + kMaxCoefficients, made.rule);
  return made;
}

// Which coefficients each tensor has: one per cohort, or per tensor when a norm is taken per tensor. They hold for the
// next step too, unless numbers of state tell the parameters apart.
void Plan::assign_coefficients() {
  const bool clips_norms = modifiers_.measures() && modifiers_.clip_kind() != ClipKind::kUnit;
  const bool per_tensor =
      (clips_norms && modifiers_.scope() == Scope::kTensor) || (rule_.clips_itself && scope_ == Scope::kTensor);
  fill_standings();
  cohorts_.clear();
  origins_.clear();
  for (size_t index = 0; index < standings_.size(); ++index) {
    const int32_t cohort = cohort_of(standings_[index]);
    const int32_t set = per_tensor ? static_cast<int32_t>(index) : cohort;
    tables_.tensors[index].coefficients = set;
    if (static_cast<size_t>(set) == origins_.size()) origins_.push_back({static_cast<int32_t>(index), cohort, {}});
  }
  coefficients_hold_ = rule_.scalars.empty() && !any_fresh_;
}

void Plan::fill_coefficients(double inverse_grad_scale) {
  if (!coefficients_hold_ || any_fresh_) assign_coefficients();
  for (Cohort& cohort : cohorts_) {
    cohort.after = cohort.standing.scalars;
    rule_.compute(hyperparameters_of(cohort), cohort.after.data(), cohort.standing.first, DirectionNorms{},
                  cohort.coefficients);
  }
  tables_.coefficients.clear();
  for (CoefficientOrigin& origin : origins_) {
    const Cohort& cohort = cohorts_[static_cast<size_t>(origin.cohort)];
    origin.after = cohort.after;
    tables_.coefficients.push_back(make_coefficients(cohort, inverse_grad_scale));
  }
}

// What is decided before anything is measured: the number of the step.
void Plan::read_shared() {
  shared_ = Shared{};
  if (reader_.groups().empty()) return;
  const GroupState shared(reader_.groups().front().dict);
  if (counts_steps()) shared_.step = shared.count("step") + 1;
  if (draws()) shared_.seed = shared.seed();
}

void Plan::fill_extras() {
  Extras& extras = tables_.extras;
  extras.seed = shared_.seed;
  extras.step = static_cast<uint32_t>(whole_number(shared_.step));
  extras.gradient_threshold = static_cast<uint32_t>(modifiers_.gradient_threshold);
  extras.lr_threshold = static_cast<uint32_t>(modifiers_.lr_threshold);
  extras.synchronises = modifiers_.lookahead_k != 0 && std::fmod(shared_.step, modifiers_.lookahead_k) == 0;
  extras.averages = modifiers_.averages != 0;
  extras.lookahead_alpha = average_weight(modifiers_.lookahead_alpha, modifiers_.ema_warmup != 0, shared_.step);
}

Outcome Plan::step(const StepInputs& inputs) {
  struct LetGo {
    HeldMemory& held;
    std::optional<double>& given_norm;
    ~LetGo() {
      held.let_go();
      given_norm.reset();
    }
  } const let_go{held_, given_norm_};
  const Outcome outcome = try_step(inputs);
  if (common_[kGradients] != 0 && outcome != Outcome::kNonFinite) {
    ++tried_steps_;
    skipped_steps_ += outcome == Outcome::kSkipped;
  }
  if (modifiers_.may_skip()) report_.skipped = outcome != Outcome::kStepped;
  std::swap(finished_, report_);
  return outcome;
}

// For a pass that takes long; null for a short one. Other threads may replace gradients and state meanwhile, whose
// memory is held as long: beside a short pass the time of that would show.
std::unique_ptr<WithoutGil> Plan::release_gil() {
  if (tables_.elements < std::max(kElementsWithGil, kElementsToHoldFor * static_cast<int64_t>(tables_.tensors.size())))
    return nullptr;
  if (held_.empty()) reader_.hold_memory(held_);
  return std::make_unique<WithoutGil>();
}

Outcome Plan::try_step(const StepInputs& inputs) {
  const std::vector<unsigned> stages = stages_of(modifiers_, reader_.groups());
  if (sharing_ && sharing_.policy.of.size() != reader_.records().size())
    throw std::logic_error("the plan was told of the processes of other parameters");
  if (reader_.take_changed() || rebuild_ || stages != stages_) rebuild_tables(stages);
  report_ = Report{};
  common_ = {inputs.found_inf ? 1.0 : 0.0, 0, tables_.tensors.empty() && !given_norm_.has_value() ? 0.0 : 1.0,
             sharing_.loss_share == 0 ? inputs.loss : inputs.loss * sharing_.loss_share};
  has_asked_ = false;
  if (sharing_) fill_zero_cells();
  read_shared();
  fill_extras();
  if (modifiers_.lookahead_k != 0) fill_slow_weights();
  fill_coefficients(inputs.inverse_grad_scale);
  const NonFinite nonfinite = modifiers_.measures() ? clip_gradients() : NonFinite::kPropagate;
  if (nonfinite != NonFinite::kPropagate)
    // When the loss scale has overflowed, such norms are expected: the scaler handles them.
    return common_[kOverflows] > 0 || nonfinite == NonFinite::kSkip ? Outcome::kSkipped : Outcome::kNonFinite;
  if (modifiers_.step_size_kind() != StepSizeKind::kNone) report_.lr_scale = scale_gradients_by_step_size();
  if (rule_.clips_itself) clip_direction(!modifiers_.measures());
  const bool waits =
      inputs.has_found_inf || any_target(reader_.groups()) || (modifiers_.skip_loss != 0 && sharing_.loss_share != 0);
  if (sharing_ && waits && !has_asked_) exchange_common();
  if (common_[kOverflows] > 0) return Outcome::kSkipped;
  if (common_[kGradients] == 0) return Outcome::kStepped;
  if (rule_.counts_zeros) scale_thresholds();  // which may refuse a factor, before spikes are written down
  if (modifiers_.finds_spikes() && find_spikes(common_[kLoss])) return Outcome::kSkipped;
  {
    const auto released = release_gil();
    cpu::update_pass(tables_, loops_, rule_.counts_zeros ? &chunk_zeros_ : nullptr);
  }
  ++steps_;
  commit();
  commit_shared();
  return Outcome::kStepped;
}

// What a step changes besides the elements: scalars, the count of zeros, and autograd's version counters.
void Plan::commit() {
  std::vector<ParameterRecord>& records = reader_.records();
  if (rule_.counts_zeros) versions_.resize(records.size());
  reader_.in_shares(static_cast<int64_t>(tables_.tensors.size()), [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    const auto position_of = [&](int64_t index) { return tables_.tensors[static_cast<size_t>(index)].parameter; };
    for (int64_t index = begin; !rule_.scalars.empty() && index < end; ++index) {
      const TensorEntry& tensor = tables_.tensors[static_cast<size_t>(index)];
      const Scalars& after = origins_[static_cast<size_t>(tensor.coefficients)].after;
      const ParameterRecord& record = records[static_cast<size_t>(tensor.parameter)];
      for (size_t i = 0; i < rule_.scalars.size(); ++i) record.set_scalar(i, after[i]);
    }
    reader().count_versions(records.data(), position_of(begin), position_of(end - 1) + 1,
                            rule_.counts_zeros ? versions_.data() : nullptr);
  });
  for (size_t position = 0; rule_.counts_zeros && position < records.size(); ++position)
    if (records[position].active)
      zeros_[position] = {0, versions_[position], records[position].object.get(),
                          records[position].operands.pointer[kParameter]};
  if (std::exchange(any_fresh_, false))
    for (ParameterRecord& record : reader_.records()) any_fresh_ |= (record.fresh = record.fresh && !record.active);
  if (!rule_.counts_zeros) return;
  for (size_t chunk = 0; chunk < tables_.chunks.size(); ++chunk) {
    const TensorEntry& tensor = tables_.tensors[static_cast<size_t>(tables_.chunks[chunk].tensor)];
    zeros_[static_cast<size_t>(tensor.parameter)].count += chunk_zeros_[chunk];
  }
}

void Plan::commit_shared() {
  const std::vector<double>& factors = report_.clip_factor;
  if (!factors.empty()) {
    ++measured_steps_;
    clipped_steps_ += std::any_of(factors.begin(), factors.end(), [](double factor) { return factor < 1; });
  }
  const GroupState shared(reader_.groups().front().dict);
  if (counts_steps()) *shared.numbers("step") = shared_.step;
  if (modifiers_.step_size_kind() == StepSizeKind::kLoss) *shared.numbers("b_squared") = shared_.b_squared;
  if (modifiers_.clip_kind() == ClipKind::kPercentile) {
    const int64_t length = static_cast<int64_t>(modifiers_.window);
    std::copy(shared_.window.begin(), shared_.window.end(), shared.numbers("norm_window", length));
    *shared.numbers("norm_count") = shared_.window_count;
  }
  if (modifiers_.step_size_kind() == StepSizeKind::kPolyak && modifiers_.growth > 0)
    *shared.numbers("polyak_step") = shared_.polyak;
  if (modifiers_.clip_kind() == ClipKind::kTensorBound) {
    const int64_t length = static_cast<int64_t>(shared_.bounds.size());
    std::copy(shared_.bounds.begin(), shared_.bounds.end(), shared.numbers("norm_bounds", length));
    *shared.numbers("norm_count") = shared_.bounded_steps;
  }
  if (modifiers_.clip_kind() == ClipKind::kZScore) {
    *shared.numbers("norm_count") = shared_.averages.count;
    *shared.numbers("norm_mean") = shared_.averages.mean;
    *shared.numbers("norm_variance") = shared_.averages.variance;
  }
  for (size_t group = 0; group < shared_.threshold_scales.size(); ++group)
    if (reader_.groups()[group].has_target())
      *GroupState(reader_.groups()[group].dict).numbers(kThresholdScale) = shared_.threshold_scales[group];
  if (!rule_.sums_norms) return;
  if (scope_ == Scope::kOptimizer) *shared.numbers("sum") = shared_.sums.front();
  for (size_t group = 0; scope_ == Scope::kGroup && group < reader_.groups().size(); ++group)
    *GroupState(reader_.groups()[group].dict).numbers("sum") = shared_.sums[group];
  for (size_t index = 0; index < tables_.tensors.size(); ++index) {
    const size_t position = static_cast<size_t>(tables_.tensors[index].parameter);
    const RecordExtra* const extra = reader_.records()[position].extra.get();
    if (extra == nullptr || !extra->sums) continue;
    if (scope_ == Scope::kTensor) extra->set_sum(0, shared_.sums[position]);
    for (int64_t row = 0; scope_ == Scope::kRow && row < tables_.row_maps[index].rows.count; ++row)
      extra->set_sum(row, shared_.sums[static_cast<size_t>(tables_.row_maps[index].first + row)]);
  }
}

// `memory`: where the parameter lies now.
int64_t Plan::zeros_in(size_t position, const void* memory) const {
  PyObject* const parameter = reader_.records()[position].object.get();
  const Zeros& last = zeros_[position];
  const bool is_known =
      last.parameter == parameter && last.memory == memory && last.version == reader().version_of(parameter);
  return is_known ? last.count : -1;
}

std::vector<int64_t> Plan::zeros() const {
  std::vector<int64_t> counts;
  for (size_t position = 0; position < zeros_.size() && position < reader_.records().size(); ++position)
    counts.push_back(zeros_in(position, memory_of(reader_.records()[position].object.get())));
  return counts;
}

}  // namespace torchclip
