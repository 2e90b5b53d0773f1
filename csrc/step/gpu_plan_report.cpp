// What a plan tells of its last step.
#include <algorithm>
#include <map>

#include "gpu_plan.h"

namespace torchclip {

py::dict GpuPlan::report() const {
  py::dict result;
  if (!reports_) return result;
  const Measured& measured = main_device().measured();
  const auto put = [&](const char* name, const at::Tensor& values, bool is_single) {
    result[name] = is_single ? values[0] : values;
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
  if (measures || rule_.clips_itself)
    result["clipped_fraction"] = main_device().counters()[1] / main_device().counters()[0].clamp_min(1);
  if (updates_ && modifiers_.step_size_kind() != StepSizeKind::kNone) result["lr_scale"] = measured.lr_scale;
  return result;
}

// Where a rule keeps a sum for each tensor, its factor is known on the tensor's own device.
at::Tensor GpuPlan::rule_clip_factor() const {
  const at::Tensor main = main_device().measured().rule_clip_factor;
  if (devices_.size() == 1 || !rule_.sums_norms || scope_ != Scope::kTensor) return main;
  at::Tensor factors = main.clone();
  for (const auto& device : devices_)
    for (const size_t position : device->tables().positions)
      factors[static_cast<int64_t>(position)].copy_(device->measured().rule_clip_factor[static_cast<int64_t>(position)],
                                                    /*non_blocking=*/true);
  return factors;
}

py::list GpuPlan::unstarted() const {
  std::map<int, at::Tensor> flags;  // of each device
  if (shape_.fresh)
    for (const auto& device : devices_) flags[device->place().number] = device->fresh().cpu();
  return reader_.list_unstarted([&](const ParameterRecord& record) {
    if (record.fresh) return true;
    if (flags.empty() || record.last_position < 0 || record.replaced) return false;
    const auto found = flags.find(place_of(record.parameter()).number);
    return found != flags.end() && found->second.const_data_ptr<int32_t>()[record.last_position] != 0;
  });
}

py::object GpuPlan::zeros() const {
  if (!rule_.counts_zeros || !reports_ || !counted_ || devices_.size() != 1) return py::none();
  for (size_t position = 0; position < reader_.records().size(); ++position) {
    const ParameterRecord& record = reader_.records()[position];
    const auto& version = record.parameter().unsafeGetTensorImpl()->version_counter();
    if (!record.active || version.current_version() != versions_[position]) return py::none();
  }
  return py::cast(main_device().zeros().sum());
}

}  // namespace torchclip
