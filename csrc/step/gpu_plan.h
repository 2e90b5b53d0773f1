// The plan of an optimizer's step on GPUs: what the host hands to the kernels, whatever launches them. Nothing here
// waits for a device, save for a policy that raises.
#pragma once

#include <memory>

#include "device_step.h"

namespace torchclip {

class GpuPlan {
 public:
  bool in_use = false;  // by a call from Python, see plan_bindings.cpp

  virtual ~GpuPlan() = default;
  GpuPlan(const GpuPlan&) = delete;
  GpuPlan& operator=(const GpuPlan&) = delete;

  // As those of Plan.
  void configure(const Modifiers& modifiers, const std::vector<GroupClip>& group_clips);
  std::vector<int64_t> refresh(const Object& param_groups, const Object& state);
  void hold(Holding holding);
  void keep_wide(std::vector<char> wide) { reader_.keep_wide(std::move(wide)); }
  void share(Sharing sharing);
  int traverse(visitproc visit, void* arg) const { return reader_.traverse(visit, arg); }
  void clear() { reader_.clear(); }
  void mark_fresh(const std::vector<int64_t>& positions);
  // Of rules whose first step differs from later ones, and of parameters with masters; the device may have skipped all
  // steps that there were. Waits for the device.
  std::vector<Object> unstarted() const;
  int64_t steps() const { return steps_; }

  // Norm pass and update pass on what the last refresh found. Whether the step is skipped is decided on the device, so
  // that the outcome says kStepped then too; kNonFinite comes of a policy that raises alone.
  // Right behind refresh(), with nothing of Python's between.
  Outcome step(const Inputs& inputs);

  // What the last step measured, as tensors on the device.
  Object report() const;
  // Whether it was left out, a number on the device; None where nothing could decide so.
  Object skipped() const;
  // The exact zeros that the last step left in all parameters together, a tensor on the device; None where some of them
  // were not counted, or written since.
  Object zeros() const;

 protected:
  GpuPlan(const std::string& rule, const Names& names, Scope scope, DeviceType device);

  // The launcher.
  virtual std::shared_ptr<DeviceStep> make_device_step(const DeviceId& id, size_t parameters) const = 0;
  virtual bool is_capturing(const DeviceId& id, void* stream) const = 0;
  // Steps of one kind run the same kernels. `first`: see launch().
  virtual uint64_t kind_of(const Inputs& inputs, bool first) const = 0;
  // A kernel that has not run yet is compiled first, which no capture outlives.
  virtual bool compiles_kernels() const = 0;
  // All launches of a step. `measures`: a clip policy takes norms. `first`: numbers on the device decide about the
  // coefficients before a rule measures anything itself. Sets `written_` with the first launch that writes parameters.
  virtual void launch(bool measures, bool first) = 0;

  DeviceStep& main_device() const { return *devices_.front(); }
  // No other device or process takes part in the step.
  bool is_alone() const { return devices_.size() == 1 && !sharing_; }
  // Asks other processes for their parts of sums, or for what else a step goes by where it does.
  void ask(Asked asked);
  // A step that measures nothing has to hear of other processes.
  bool waits() const { return waits_; }
  // Calls `body(device)` for every device, which is current then.
  template <class Body>
  void on_each_device(const Body& body) {
    for (const auto& device : devices_) {
      const DeviceGuard guard(device->id());
      body(*device);
    }
  }

  const RuleEntry& rule_;
  Scope scope_;
  ParameterReader reader_;
  Sharing sharing_;
  Shape shape_;
  std::vector<std::shared_ptr<DeviceStep>> devices_;  // the main one first
  bool written_ = false;                              // the step has come as far as writing parameters

 private:
  Outcome try_step(const Inputs& inputs);
  void bring_up_to_date(const Inputs& inputs);
  void measure_and_update(const Inputs& inputs);
  Shape shape() const;
  void rebuild(const Shape& shape);
  std::vector<std::pair<Buffer, Buffer>> counted_numbers() const;
  void move_fresh_flags();
  void told_of_fresh();
  void renew_masters();
  void* current_stream(const DeviceId& id) const;
  bool capturing() const;
  bool moves_numbers() const;
  bool finishes_first(const Inputs& inputs) const;
  bool waits_for_others(const Inputs& inputs) const;
  void check_exchanges() const;
  bool has_threshold_scales() const;
  bool is_as_left(const ParameterRecord& record) const;
  bool are_as_left() const;
  bool leaves_counts(const Inputs& inputs) const;
  void remember_memory();
  void find_zeros();
  void gather_zeros() const;
  bool refuses_norm(const Inputs& inputs) const;
  void commit();
  Buffer rule_clip_factor() const;
  DeviceId main_id() const;

  DeviceType device_;
  bool waits_ = false;        // see waits()
  bool asks_ = false;         // other processes, in the last step
  bool has_asked_ = false;    // in this step
  bool has_decided_ = false;  // the last one, on the device, whether it is taken
  Modifiers modifiers_;
  std::vector<GroupClip> group_clips_;  // [groups], or empty
  bool rebuild_ = true;
  std::vector<std::shared_ptr<DeviceStep>> in_graphs_;  // those that take no part any more
  HeldMemory held_;                                     // gradients of this step
  std::vector<uint64_t> proven_;                        // kinds of steps of which every kernel has run on these tables
  bool any_fresh_ = false;                              // some parameter is, of which the device has not been told
  bool may_skip_ = false;                               // a step may have been one that the device skips
  int64_t steps_ = 0;
  bool reports_ = false;            // a step has been taken since the last change of the modifiers
  bool counted_ = false;            // the devices hold the zeros of the parameters that are as left
  bool updates_ = false;            // a parameter had a gradient in the last step
  std::vector<uint32_t> versions_;  // [parameters], autograd's, after the last step or count
  // [parameters], where each lay then: a new one through `.data` counts up no version.
  std::vector<const void*> memory_;
};

}  // namespace torchclip
