// The devices of a plan, and what the tables of each are built for.
#include <algorithm>
#include <utility>

#include "gpu_plan.h"

namespace torchclip {

Shape GpuPlan::shape() const {
  Shape shape;
  shape.rule_scope = scope_;
  shape.clips_rows = modifiers_.clip_kind() == ClipKind::kUnit;
  shape.clips_norms = modifiers_.measures() && !shape.clips_rows;
  shape.rule_rows = rule_.sums_norms && scope_ == Scope::kRow;
  shape.clip_scope = shape.clips_norms ? modifiers_.scope() : Scope::kOptimizer;
  shape.group_clips = group_clips_;
  shape.stages = stages_of(modifiers_, reader_.groups());
  shape.fresh = may_skip_ && reader_.holding().has_masters();
  for (const Group& group : reader_.groups()) shape.fresh |= rule_.first_differs(group.hyperparameters.data());
  shape.coefficients_per_tensor = !rule_.scalars.empty() || shape.fresh || shape.clip_scope == Scope::kTensor ||
                                  (rule_.clips_itself && scope_ == Scope::kTensor);
  shape.lookahead = modifiers_.lookahead_k != 0;
  shape.joint_norm = modifiers_.takes_joint_norm();
  shape.threshold_scales = has_threshold_scales();
  return shape;
}

// That of the first parameter that can step, where the shared numbers lie too. See torchclip/state/steppable.py.
DeviceId GpuPlan::main_id() const {
  const std::vector<ParameterRecord>& records = reader_.records();
  if (records.empty()) return current_device_id(device_);
  const auto can_step = [](const ParameterRecord& record) {
    return record.active || to_bool(record.object.attribute("requires_grad").get());
  };
  const auto leading = std::find_if(records.begin(), records.end(), can_step);
  return device_id_of_object((leading == records.end() ? records.front() : *leading).object.get());
}

// The devices' flags go with the parameters where these have another position, and are not those of other state.
void GpuPlan::move_fresh_flags() {
  std::vector<int64_t> from;
  for (ParameterRecord& record : reader_.records()) {
    from.push_back(std::exchange(record.replaced, false) ? -1 : record.last_position);
    record.last_position = static_cast<int32_t>(from.size()) - 1;
  }
  on_each_device([&](DeviceStep& device) { device.move_fresh(from); });
}

void GpuPlan::rebuild(const Shape& shape) {
  move_fresh_flags();
  const std::vector<ParameterRecord>& records = reader_.records();
  std::vector<std::pair<DeviceId, std::vector<size_t>>> by_device{{main_id(), {}}};
  for (size_t position = 0; position < records.size(); ++position) {
    if (!records[position].active) continue;
    const DeviceId id = device_id_of_object(records[position].object.get());
    const auto is_here = [&](const auto& other) { return other.first.number == id.number; };
    auto found = std::find_if(by_device.begin(), by_device.end(), is_here);
    if (found == by_device.end()) found = by_device.insert(by_device.end(), {id, {}});
    found->second.push_back(position);
  }
  if (sharing_ && by_device.size() > 1)
    throw std::runtime_error(
        "the parameters of this process are on several devices, and their norm is taken over other processes too: keep "
        "those of a process on one device, or choose backend=\"reference\"");
  if (sharing_ && sharing_.policy.of.size() != records.size())
    throw std::logic_error("the plan was told of the processes of other parameters");
  std::vector<std::shared_ptr<DeviceStep>> devices;
  for (const auto& [id, positions] : by_device) {
    const DeviceGuard guard(id);
    const auto is_here = [number = id.number](const auto& device) { return device->id().number == number; };
    const auto known = std::find_if(devices_.begin(), devices_.end(), is_here);
    devices.push_back(known != devices_.end() ? *known : make_device_step(id, records.size()));
    devices.back()->build(reader_, modifiers_, shape, positions, by_device.size(), sharing_);
  }
  // What a graph uses must outlive it, and of graphs nothing is known here.
  for (const auto& device : devices_)
    if (device->is_in_graph() && std::find(devices.begin(), devices.end(), device) == devices.end())
      in_graphs_.push_back(device);
  devices_ = std::move(devices);
  shape_ = shape;
  counted_ = false;
  proven_.clear();
  versions_.assign(records.size(), 0);
  memory_.assign(records.size(), nullptr);
  rebuild_ = false;
}

}  // namespace torchclip
