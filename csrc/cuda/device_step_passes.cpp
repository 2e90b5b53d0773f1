// The launches of one device's share of a step.
#include <utility>

#include "device_step.h"

namespace torchclip::cuda {

// Where the sums over the units come from: this pass's own partial sums, or what all devices have gathered.
UnitSums DeviceStep::sums_of(Section<int32_t> units, bool alone) const {
  UnitSums sums{scratch(partials_), image_.at(units), static_cast<int32_t>(units.count) - 1, 0, nullptr};
  if (!alone) sums.write_to = static_cast<Partial*>(unit_sums_.data_ptr());
  return sums;
}

void DeviceStep::norm_pass(bool alone) {
  finish_.sums = sums_of(shape_.clips_rows ? row_unit_ : clip_units_, alone);
  pass_.row_factors = shape_.clips_rows ? scratch(row_gradient_factors_) : nullptr;
  pass_.row_gradient_factors = nullptr;
  for (const Planned<NormLauncher>& planned : norms_) {
    set_pass(planned);
    finish_.makes_rows = &planned == &norms_.front() ? 1 : 0;
    planned.launch(pass_, finish_, planned.blocks, stream_);
  }
  if (!alone) return;
  if (norms_.empty()) launch_finish_alone();  // nothing but empty tensors
  after_finish();
}

template <class Launcher>
void DeviceStep::set_pass(const Planned<Launcher>& planned) {
  pass_.chunks = image_.at(chunks_) + planned.first;
  pass_.row_chunks = image_.at(row_chunks_) + planned.first;
  pass_.chunk_count = planned.count;
  pass_.first_kept = planned.first_kept;
}

void DeviceStep::finish() {
  if (!shape_.clips_norms && !shape_.clips_rows) {
    finish_.sums = UnitSums{};
  } else {
    finish_.sums = gathered(shape_.clips_rows ? 1 : static_cast<int32_t>(clip_units_.count) - 1);
  }
  finish_.row_sums.long_row_count = 0;  // there are none, or they are summed already
  launch_finish_alone();
  finish_.row_sums.long_row_count = static_cast<int32_t>(tables_.long_rows.size());
  after_finish();
}

// The rows are made already where there was a norm pass.
void DeviceStep::launch_finish_alone() {
  finish_.makes_rows = norms_.empty() ? 1 : 0;
  launch_finish(finish_, stream_);
}

UnitSums DeviceStep::gathered(int32_t units) const {
  return {static_cast<const Partial*>(gathered_sums_.const_data_ptr()), nullptr, units, devices_, nullptr};
}

// From here on the rows and the numbers of the step are on the device.
void DeviceStep::after_finish() {
  follows_own_pass_ = true;
  pass_.rows = scratch(rows_);
  pass_.numbers = finish_rule_.numbers = scratch(numbers_);
}

void DeviceStep::direction_pass(bool alone) {
  finish_rule_.sums = sums_of(shape_.rule_rows ? row_unit_ : rule_units_, alone);
  pass_.row_factors = shape_.rule_rows ? scratch(row_step_factors_) : nullptr;
  pass_.row_gradient_factors = shape_.clips_rows ? scratch(row_gradient_factors_) : nullptr;
  launch_directions();
  if (!alone) return;
  if (directions_.empty()) launch_finish_rule(finish_rule_, stream_);
  follows_own_pass_ = true;
  pass_.rows = scratch(rows_);
}

void DeviceStep::launch_directions() {
  size_t index = 0;
  for (const Run& run : tables_.runs) {
    if ((shape_.rule_rows ? run.row_count : run.count) == 0) continue;
    const Planned<DirectionLauncher>& planned = directions_[index++];
    set_pass(planned);
    pass_.stages = run.bucket.stages;
    planned.launch(pass_, finish_rule_, planned.blocks, stream_);
  }
}

void DeviceStep::finish_rule() {
  finish_rule_.sums = gathered(shape_.rule_rows ? 1 : static_cast<int32_t>(rule_units_.count) - 1);
  finish_rule_.row_sums.long_row_count = 0;
  launch_finish_rule(finish_rule_, stream_);
  follows_own_pass_ = true;
  finish_rule_.row_sums.long_row_count = static_cast<int32_t>(tables_.long_rows.size());
  pass_.rows = scratch(rows_);
}

void DeviceStep::update_pass(bool& written) {
  pass_.row_gradient_factors = shape_.clips_rows ? scratch(row_gradient_factors_) : nullptr;
  pass_.row_step_factors = shape_.rule_rows ? scratch(row_step_factors_) : nullptr;
  // In the reverse order of the norm pass, as within a launch.
  for (auto run = tables_.runs.rbegin(); run != tables_.runs.rend(); ++run) {
    if (run->count == 0) continue;
    set_update(*run);
    pass_.early_blocks = std::exchange(follows_own_pass_, false) ? early_blocks_ : 0;
    run->launchers.update(pass_, stream_);
    written = true;
  }
}

void DeviceStep::set_update(const Run& run) {
  pass_.chunks = image_.at(chunks_) + run.first;
  pass_.chunk_count = pass_.first_kept = run.count;
  pass_.pieces = run.pieces;
  pass_.zeros = rule_.counts_zeros ? zeros_.mutable_data_ptr<int64_t>() + run.first_piece : nullptr;
  pass_.stages = run.bucket.stages;
}

void DeviceStep::measure_nothing() {
  for (const at::Tensor& norm : {measured_.grad_norm, measured_.rule_grad_norm, measured_.direction_norm}) norm.zero_();
  for (const at::Tensor& factor : {measured_.clip_factor, measured_.rule_clip_factor}) factor.fill_(1.0);
}

void DeviceStep::norm_and_update() {
  set_update(*tables_.only_run());
  finish_.sums = sums_of(clip_units_, true);
  finish_.blocks = norm_and_update_.blocks;
  finish_.makes_rows = 1;
  after_finish();
  norm_and_update_.launch(pass_, finish_, norm_and_update_.blocks, stream_);
  finish_.blocks = total_blocks(norms_);
}

void DeviceStep::direction_and_update() {
  set_update(*tables_.only_run());
  finish_rule_.sums = sums_of(rule_units_, true);
  finish_rule_.blocks = direction_and_update_.blocks;
  direction_and_update_.launch(pass_, finish_rule_, direction_and_update_.blocks, stream_);
  finish_rule_.blocks = total_blocks(directions_);
}

}  // namespace torchclip::cuda
