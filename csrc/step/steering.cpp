// Thresholds that target_sparsity steers: the factors on them lie on the device, and go by the zeros that the update
// pass counts. csrc/steering.h has the law for C++, kernels/steering.py for Triton.
#include <algorithm>

#include "gpu_plan.h"

namespace torchclip {

// A factor stays where its target is gone.
bool GpuPlan::has_threshold_scales() const {
  if (!rule_.counts_zeros) return false;
  const auto has_scale = [](const Group& group) {
    return group.has_target() || GroupState(group.dict).has(kThresholdScale);
  };
  const std::vector<Group>& groups = reader_.groups();
  return std::any_of(groups.begin(), groups.end(), has_scale);
}

// Whether a parameter was not written since versions_ and memory_ were remembered. What writes into the same memory
// through `.data` goes unnoticed.
bool GpuPlan::is_as_left(const ParameterRecord& record) const {
  const size_t position = static_cast<size_t>(&record - reader_.records().data());
  return reader().version_of(record.object.get()) == versions_[position] &&
         record.operands.pointer[kParameter] == memory_[position];
}

// None of this step was.
bool GpuPlan::are_as_left() const {
  const std::vector<ParameterRecord>& records = reader_.records();
  return std::all_of(records.begin(), records.end(),
                     [&](const ParameterRecord& record) { return !record.active || is_as_left(record); });
}

// Whether the devices hold the zeros of the parameters when the step that was launched is over. One that the device may
// skip, and one that a graph captures, may have counted nothing: what was counted before holds for them if nothing was
// written since.
bool GpuPlan::leaves_counts(const Inputs& inputs) const {
  if (!rule_.counts_zeros || !updates_) return false;
  const bool may_count_nothing = static_cast<bool>(inputs.found_inf) || modifiers_.may_skip() || capturing();
  return !may_count_nothing || (counted_ && are_as_left());
}

void GpuPlan::remember_memory() {
  if (!rule_.counts_zeros && !reader_.holding().has_masters()) return;
  const std::vector<ParameterRecord>& records = reader_.records();
  for (size_t position = 0; position < records.size(); ++position)
    memory_[position] = records[position].operands.pointer[kParameter];
}

// Where the parameters are not as the last step has left them, their zeros are counted anew. A step that a graph
// captures goes by what was counted last, as its replays do.
void GpuPlan::find_zeros() {
  if (!counted_ || (!are_as_left() && !capturing())) {
    on_each_device([this](DeviceStep& device) { device.count_zeros(reader_); });
    const std::vector<ParameterRecord>& records = reader_.records();
    for (size_t position = 0; position < records.size(); ++position)
      if (records[position].active) versions_[position] = reader().version_of(records[position].object.get());
    remember_memory();
    counted_ = !capturing();  // which has the counting run in replays alone
  }
  if (devices_.size() > 1) gather_zeros();
}

// Every device gets those of all, so that they steer alike.
void GpuPlan::gather_zeros() const {
  const size_t count = devices_.size();
  for (size_t group = 0; group < reader_.groups().size(); ++group) {
    if (!reader_.groups()[group].has_target()) continue;
    for (size_t from = 0; from < count; ++from) {
      const Buffer zeros = devices_[from]->zeros_of_group(group);
      for (const auto& device : devices_)
        device->gathered_zeros()[static_cast<int64_t>(group * count + from)].copy_from(zeros, /*non_blocking=*/true);
    }
  }
}

void DeviceStep::set_zero_ranges() {
  std::vector<ZeroRange> ranges = tables_.zero_ranges;
  std::vector<int32_t> begins = tables_.zero_begins;
  for (size_t group = 0; devices_ > 1 && group < tables_.group_elements.size(); ++group) {
    ranges.resize(tables_.group_elements.size());
    ranges[group] = {static_cast<int64_t>(group) * devices_, devices_};
    begins[group + 1] = static_cast<int32_t>(group) + 1;
  }
  image_.set(zero_ranges_, ranges);
  image_.set(zero_begins_, begins);
}

Buffer DeviceStep::zeros_of_group(size_t group) const {
  Buffer sum = Buffer::zeros({}, "int64", id_.device);
  for (int32_t index = tables_.zero_begins[group]; index < tables_.zero_begins[group + 1]; ++index) {
    const ZeroRange& range = tables_.zero_ranges[static_cast<size_t>(index)];
    sum.tensor().call("add_", zeros_.narrow(range.first, range.count).tensor().call("sum"));
  }
  return sum;
}

void DeviceStep::read_threshold(const Group& group, size_t index, GroupNumbers& numbers) {
  const GroupState shared = shared_of(group);
  if (!group.has_target() && !shared.has(kThresholdScale)) return;
  const Buffer scale = shared.tensor(kThresholdScale);
  numbers.threshold_scale = beside(kThresholdScale + std::to_string(index), scale).values<double>();
  if (!group.has_target()) return;
  numbers.target = group.target;
  if (!group.has_threshold()) return;
  // Those of all processes are known on the device alone: then it says no more than that there is a target.
  numbers.elements = *sharing_ ? 1.0 : tables_.group_elements[index];
}

// All those of a tensor go where its first are.
void DeviceStep::count_zeros(const ParameterReader& reader) {
  static PyObject* const zeros_in = kept_attribute("torchclip.state.zeros", "zeros_in");
  zeros_.fill(0);
  for (size_t index = 0; index < tables_.positions.size(); ++index) {
    if (tables_.first_pieces[index] < 0) continue;
    const ParameterRecord& record = reader.records()[tables_.positions[index]];
    const Object counted = Object::borrow(zeros_in)(record.object.call("detach"));
    zeros_[tables_.first_pieces[index]].tensor().call("copy_", counted);
  }
}

}  // namespace torchclip
