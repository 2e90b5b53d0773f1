// What a plan tells of its last step.
#include <algorithm>
#include <map>

#include "plan.h"

namespace torchclip::cuda {

py::dict Plan::report() const {
  py::dict result;
  if (!reports_) return result;
  const Measured& measured = main_part().measured();
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
    result["clipped_fraction"] = main_part().counters()[1] / main_part().counters()[0].clamp_min(1);
  if (updates_ && modifiers_.step_size_kind() != StepSizeKind::kNone) result["lr_scale"] = measured.lr_scale;
  return result;
}

// Where a rule keeps a sum for each tensor, its factor is known on the tensor's own device.
at::Tensor Plan::rule_clip_factor() const {
  const at::Tensor main = main_part().measured().rule_clip_factor;
  if (parts_.size() == 1 || !rule_.sums_norms || scope_ != Scope::kTensor) return main;
  at::Tensor factors = main.clone();
  for (const auto& part : parts_)
    for (const size_t position : part->tables().positions)
      factors[static_cast<int64_t>(position)].copy_(part->measured().rule_clip_factor[static_cast<int64_t>(position)],
                                                    /*non_blocking=*/true);
  return factors;
}

py::list Plan::unstarted() const {
  std::map<int, at::Tensor> flags;  // of each device
  if (shape_.fresh)
    for (const auto& part : parts_) flags[part->place().number] = part->fresh().cpu();
  return members_.list_unstarted([&](const Member& member) {
    if (member.fresh) return true;
    if (flags.empty() || member.last_position < 0 || member.replaced) return false;
    const auto found = flags.find(place_of(member.parameter()).number);
    return found != flags.end() && found->second.const_data_ptr<int32_t>()[member.last_position] != 0;
  });
}

py::object Plan::zeros() const {
  if (!rule_.counts_zeros || !reports_ || !counted_ || parts_.size() != 1) return py::none();
  for (size_t position = 0; position < members_.all().size(); ++position) {
    const Member& member = members_.all()[position];
    const auto& version = member.parameter().unsafeGetTensorImpl()->version_counter();
    if (!member.active || version.current_version() != versions_[position]) return py::none();
  }
  return py::cast(main_part().zeros().sum());
}

}  // namespace torchclip::cuda
