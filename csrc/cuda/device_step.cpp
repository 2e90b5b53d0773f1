#include "device_step.h"

#include <algorithm>
#include <utility>

namespace torchclip::cuda {

void DeviceStep::upload(const Buffer& memory, Extent extent, const void* from) {
  cuda::upload(memory.values<char>() + extent.offset, from, extent.bytes, stream_);
}

void DeviceStep::find_run_launchers() {
  launchers_.clear();
  for (const Run& run : tables_.runs) {
    launchers_.push_back(find_launchers(rule_.name, run.bucket, run.is_coded ? &run.types : nullptr));
    if (launchers_.back().update == nullptr)
      throw std::logic_error(std::string("no kernel is compiled for a bucket of rule ") + rule_.name);
  }
}

// Of the launches for the clip policy the first has a block more, which fills the coefficients.
template <class Launcher>
void DeviceStep::plan_launch(const Launch<Launcher>& launch, const Types& types, int64_t first, int64_t count,
                             bool merges, std::vector<Planned<Launcher>>& planned) {
  if (count == 0) return;
  if (merges && !planned.empty() && planned.back().launch == launch.launch) {
    count += planned.back().count;
    first = planned.back().first;
    planned.pop_back();
  }
  const bool fills_coefficients = std::is_same_v<Launcher, NormLauncher> && planned.empty();
  planned.push_back({launch.launch, first, count, launch.blocks(fills_coefficients ? count + 1 : count), types});
}

// The chunks that a pass comes to last stay in the cache for the update, which takes them first: as much as fills half
// of it, since what the update alone reads and writes goes through it too. Where all operands fit, they stay anyway,
// and should be no harder to replace by what comes after the step. `bytes`: that the pass reads.
template <class Launcher>
void DeviceStep::plan_kept(int64_t bytes, std::vector<Planned<Launcher>>& planned) const {
  const int64_t room = pass_.overflows_cache != 0 ? cache_bytes_ / 2 : 0;
  int64_t chunks = 0;
  for (const Planned<Launcher>& launch : planned) chunks += launch.count;
  int64_t kept = bytes <= room ? chunks : chunks * room / bytes;
  for (auto launch = planned.rbegin(); launch != planned.rend(); ++launch) {
    const int64_t here = std::min(kept, launch->count);
    launch->first_kept = launch->count - here;
    kept -= here;
  }
}

// Norms of the raw gradients ask for the type alone, so that neighbouring runs share a launch.
void DeviceStep::plan_launches() {
  norms_.clear();
  directions_.clear();
  find_run_launchers();
  for (const Run& run : tables_.runs) {
    const Launchers& launchers = launchers_of(run);
    if (shape_.clips_norms && run.is_measured)
      plan_launch(launchers.raw_norm, run.types, run.first, run.count, true, norms_);
    if (shape_.clips_rows)
      plan_launch(launchers.row_norm, run.types, run.first_row, run.row_count, !run.is_coded, norms_);
    if (shape_.rule_rows) {
      plan_launch(launchers.row_direction_norm, run.types, run.first_row, run.row_count, false, directions_);
    } else if (rule_.clips_itself) {
      plan_launch(launchers.direction_norm, run.types, run.first, run.count, false, directions_);
    }
  }
  const DeviceInfo device = device_info(id_.number);
  cache_bytes_ = device.cache_bytes;
  early_blocks_ = device.early_blocks;
  const bool overflows = 2 * tables_.bytes > cache_bytes_;
  pass_.overflows_cache = overflows ? 1 : 0;
  plan_kept(tables_.gradient_bytes, norms_);
  plan_kept(tables_.bytes, directions_);
  fits_in_cache_ = !shape_.by_rows() && !overflows && plan_one_launch();
}

// Not every set of stages is compiled as one launch.
bool DeviceStep::plan_one_launch() {
  const Run* const only = tables_.only_run();
  if (only == nullptr) return false;
  const Run& run = *only;
  const auto plan = [&](const auto& launch, int64_t blocks, auto& planned) {
    if (launch.launch == nullptr) return false;
    planned = {launch.launch, run.first, run.count, launch.blocks(blocks)};
    return true;
  };
  return shape_.clips_norms ? plan(launchers_of(run).norm_and_update, run.count + 1, norm_and_update_)
                            : plan(launchers_of(run).direction_and_update, run.count, direction_and_update_);
}

void DeviceStep::norm_pass(bool alone) {
  finish_.sums = sums_of(shape_.clips_rows ? row_unit_ : clip_units_, alone);
  pass_.row_factors = shape_.clips_rows ? scratch(row_gradient_factors_) : nullptr;
  pass_.row_gradient_factors = nullptr;
  for (const Planned<NormLauncher>& planned : norms_) {
    set_pass(planned);
    finish_.fills_coefficients = &planned == &norms_.front() && !steers_behind_exchange() ? 1 : 0;
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
  pass_.types = planned.types;
}

void DeviceStep::finish() {
  const bool measures = shape_.clips_norms || shape_.clips_rows;
  if (!*sharing_)
    finish_.sums =
        measures ? gathered(shape_.clips_rows ? 1 : static_cast<int32_t>(clip_units_.count) - 1) : UnitSums{};
  finish_.row_sums.long_row_count = 0;  // there are none, or they are summed already
  launch_finish_alone();
  finish_.row_sums.long_row_count = static_cast<int32_t>(tables_.long_rows.size());
  after_finish();
}

// The coefficients are filled already where there was a norm pass.
void DeviceStep::launch_finish_alone() {
  finish_.fills_coefficients = norms_.empty() || steers_behind_exchange() ? 1 : 0;
  launch_finish(finish_, stream_);
}

UnitSums DeviceStep::gathered(int32_t units) const {
  return {nullptr, nullptr, units, devices_, gathered_sums_.values<UnitSum>()};
}

// From here on the coefficients and the numbers of the step are on the device.
void DeviceStep::after_finish() {
  follows_own_pass_ = true;
  pass_.coefficients = scratch(coefficients_);
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
  pass_.coefficients = scratch(coefficients_);
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
  if (!*sharing_) finish_rule_.sums = gathered(shape_.rule_rows ? 1 : static_cast<int32_t>(rule_units_.count) - 1);
  finish_rule_.row_sums.long_row_count = 0;
  launch_finish_rule(finish_rule_, stream_);
  if (*sharing_) pass_.numbers = finish_rule_.decided;
  follows_own_pass_ = true;
  finish_rule_.row_sums.long_row_count = static_cast<int32_t>(tables_.long_rows.size());
  pass_.coefficients = scratch(coefficients_);
}

void DeviceStep::update_pass(bool& written) {
  pass_.row_gradient_factors = shape_.clips_rows ? scratch(row_gradient_factors_) : nullptr;
  pass_.row_step_factors = shape_.rule_rows ? scratch(row_step_factors_) : nullptr;
  // In the reverse order of the norm pass, as within a launch.
  for (auto run = tables_.runs.rbegin(); run != tables_.runs.rend(); ++run) {
    if (run->count == 0) continue;
    set_update(*run);
    pass_.early_blocks = std::exchange(follows_own_pass_, false) ? early_blocks_ : 0;
    launchers_of(*run).update(pass_, stream_);
    written = true;
  }
}

void DeviceStep::set_update(const Run& run) {
  pass_.chunks = image_.at(chunks_) + run.first;
  pass_.chunk_count = pass_.first_kept = run.count;
  pass_.pieces = run.pieces;
  pass_.zeros = rule_.counts_zeros ? zeros_.values<int64_t>() + run.first_piece : nullptr;
  pass_.stages = run.bucket.stages;
  pass_.types = run.types;
}

void DeviceStep::norm_and_update() {
  set_update(*tables_.only_run());
  finish_.sums = sums_of(clip_units_, true);
  finish_.blocks = norm_and_update_.blocks;
  finish_.fills_coefficients = 1;
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
