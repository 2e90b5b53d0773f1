// What a plan tells of its last step.
#include <algorithm>
#include <map>

#include "gpu_plan.h"

namespace torchclip {

Object GpuPlan::report() const {
  const Object result = make_dict();
  if (!reports_) return result;
  const Measured& measured = main_device().measured();
  const auto put = [&](const char* name, const Buffer& values, bool is_single) {
    torchclip::put(result, name, is_single ? values[0].tensor() : values.tensor());
  };
  const bool measures = modifiers_.measures();
  if (measures) {
    const bool is_single = shape_.clips_rows || shape_.clip_scope == Scope::kOptimizer;
    put("grad_norm", measured.grad_norm, is_single);
    put("clip_factor", measured.clip_factor, is_single);
  }
  if (rule_.clips_itself) {
    const bool is_single = scope_ == Scope::kOptimizer || scope_ == Scope::kRow;
    if (!measures) put("grad_norm", measured.rule_grad_norm, is_single);
    if (!measures) put("clip_factor", rule_clip_factor(), is_single);
    put("direction_norm", measured.direction_norm, is_single);
  }
  if (measures || rule_.clips_itself) {
    const Buffer& counters = main_device().counters();
    const Object measured_steps = counters[0].tensor().call("clamp_min", to_python(1));
    torchclip::put(result, "clipped_fraction", counters[1].tensor().call("div", measured_steps));
  }
  if (updates_ && modifiers_.may_skip()) {
    const Buffer& counters = main_device().counters();
    torchclip::put(result, "skipped", measured.skipped.tensor());
    torchclip::put(result, "skipped_fraction",
                   counters[3].tensor().call("div", counters[2].tensor().call("clamp_min", to_python(1))));
  }
  if (updates_ && modifiers_.step_size_kind() != StepSizeKind::kNone)
    torchclip::put(result, "lr_scale", measured.lr_scale.tensor());
  return result;
}

Object GpuPlan::skipped() const {
  if (!reports_ || !(has_decided_ || asks_)) return none();
  const Object skipped = main_device().measured().skipped.tensor();
  if (!asks_) return skipped;
  const Object disagreed = main_device().counters()[kDisagreed].tensor();
  return has_decided_ ? skipped.call("maximum", disagreed) : disagreed;
}

// Where a rule keeps a sum for each tensor, its factor is known on the tensor's own device.
Buffer GpuPlan::rule_clip_factor() const {
  const Buffer main = main_device().measured().rule_clip_factor;
  if (devices_.size() == 1 || !rule_.sums_norms || scope_ != Scope::kTensor) return main;
  const Buffer factors = main.clone();
  for (const auto& device : devices_)
    for (const size_t position : device->tables().positions) {
      const int64_t index = static_cast<int64_t>(position);
      factors[index].copy_from(device->measured().rule_clip_factor[index], /*non_blocking=*/true);
    }
  return factors;
}

std::vector<Object> GpuPlan::unstarted() const {
  std::map<int, Buffer> flags;  // of each device
  if (shape_.fresh)
    for (const auto& device : devices_) flags[device->id().number] = Buffer(device->fresh().tensor().call("cpu"));
  return reader_.list_unstarted([&](const ParameterRecord& record) {
    if (record.fresh) return true;
    if (flags.empty() || record.last_position < 0 || record.replaced) return false;
    const auto found = flags.find(device_id_of_object(record.object.get()).number);
    return found != flags.end() && found->second.values<int32_t>()[record.last_position] != 0;
  });
}

Object GpuPlan::zeros() const {
  if (!rule_.counts_zeros || !reports_ || !counted_ || devices_.size() != 1 || !are_as_left()) return none();
  for (size_t position = 0; position < reader_.records().size(); ++position) {
    const ParameterRecord& record = reader_.records()[position];
    if (!record.active || memory_of(record.object.get()) != memory_[position]) return none();
  }
  return main_device().zeros().tensor().call("sum");
}

}  // namespace torchclip
