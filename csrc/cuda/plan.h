// The plan of an optimizer's step on CUDA devices: which passes run where, and what the host hands to them. Nothing
// here waits for a device, save for a policy that raises.
#pragma once

#include <memory>

#include "device_step.h"

namespace torchclip::cuda {

class Plan {
 public:
  bool in_use = false;  // by a call from Python, see plan_bindings.cpp

  // As those of torchclip::Plan.
  Plan(const std::string& rule, const Names& names, Scope scope);
  void configure(const Modifiers& modifiers, const std::vector<GroupClip>& group_clips);
  std::vector<int64_t> refresh(const py::object& param_groups, const py::dict& state);
  int traverse(visitproc visit, void* arg) const { return reader_.traverse(visit, arg); }
  void clear() { reader_.clear(); }
  void mark_fresh(const std::vector<int64_t>& positions);
  // Of rules whose first step differs from later ones; the device may have skipped all steps that there were. Waits for
  // the device.
  py::list unstarted() const;
  int64_t steps() const { return steps_; }

  // Norm pass and update pass on what the last refresh found. Whether the step is skipped is decided on the device, so
  // that the outcome says kStepped then too; kNonFinite comes of a policy that raises alone.
  Outcome step(const py::object& grad_scale, const py::object& found_inf, const py::object& loss);

  // What the last step measured, as tensors on the device.
  py::dict report() const;
  // The exact zeros that the last step left in all parameters together, a tensor on the device; None where some of them
  // were not counted, or written since.
  py::object zeros() const;

 private:
  Outcome try_step(const Inputs& inputs);
  Shape shape() const;
  void rebuild(const Shape& shape);
  std::vector<std::pair<at::Tensor, at::Tensor>> counted_numbers() const;
  void move_fresh_flags();
  void told_of_fresh();
  bool capturing() const;
  bool finishes_first(const Inputs& inputs) const;
  // Calls `body(device)` for every device, which is current meanwhile.
  template <class Body>
  void on_each_device(const Body& body);
  void measure_and_update(const Inputs& inputs);
  void measure(bool measures);
  void measure_directions();
  void gather(Scope scope);
  bool refuses_norm(const Inputs& inputs) const;
  void commit();
  at::Tensor rule_clip_factor() const;
  Place main_place() const;
  DeviceStep& main_device() const { return *devices_.front(); }

  const RuleEntry& rule_;
  Scope scope_;
  Modifiers modifiers_;
  std::vector<GroupClip> group_clips_;  // [groups], or empty
  ParameterReader reader_;
  Shape shape_;
  bool rebuild_ = true;
  std::vector<std::shared_ptr<DeviceStep>> devices_;    // the main one first
  std::vector<std::shared_ptr<DeviceStep>> in_graphs_;  // those that take no part any more
  bool any_fresh_ = false;                              // some record is, of which the device has not been told
  int64_t steps_ = 0;
  bool proven_ = false;             // every kernel of these tables has run
  bool written_ = false;            // the step has come as far as writing parameters
  bool reports_ = false;            // a step has been taken since the last change of the modifiers
  bool counted_ = false;            // the zeros of these tables are those of a step that was taken
  bool updates_ = false;            // a parameter had a gradient in the last step
  std::vector<uint32_t> versions_;  // [parameters], autograd's, after the last step
};

}  // namespace torchclip::cuda
