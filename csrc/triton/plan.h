// The plan of a step that Triton's kernels take, on one device. They are launched by Python:
// torchclip/backends/triton/launcher.py.
#pragma once

#include "../step/gpu_plan.h"

namespace torchclip::triton {

class DeviceStep final : public torchclip::DeviceStep {
 public:
  // `make_launcher(device)`: what launches the kernels over this memory.
  DeviceStep(DeviceId id, const RuleEntry& rule, size_t parameters, const Object& make_launcher);

  // All launches of a step, see GpuPlan::launch().
  void launch(bool measures, bool first, bool waits, bool& written);

 private:
  Cutting cutting() const override;
  bool rides_along() const override { return false; }
  bool writes_in_one() const override { return true; }
  void upload(const Buffer& memory, Extent extent, const void* from) override;
  void share(const ShareArguments& arguments) override;
  void reserve_own() override;
  void plan_launches() override {}
  uint32_t norm_blocks() const override;
  uint32_t direction_blocks() const override;
  void placed() override;
  void set_exchanges();
  Object exchanges() const;
  void set_own() override;

  Object runs() const;
  Object constants() const;
  template <class T>
  Object table(Section<T> section, const char* dtype) const;
  template <class T>
  Object scratch_table(Section<T> section, const char* dtype = "float64") const;

  Object launcher_;
  Section<FinishArguments> finish_table_;
  Section<FinishRuleArguments> finish_rule_table_;
  Section<int64_t> draws_;
  Section<ShareArguments> share_tables_[kAsked];
  // Page-locked memory that no upload has used, for captures, in which none should be allocated; and what graphs read.
  std::vector<Buffer> spares_, in_graphs_;
};

class Plan final : public GpuPlan {
 public:
  // `device`: on whose type everything lies. `make_launcher`: see DeviceStep.
  Plan(const std::string& rule, const Names& names, Scope scope, const std::string& device, Object make_launcher)
      : GpuPlan(rule, names, scope, device_type(device)), make_launcher_(std::move(make_launcher)) {}

 private:
  std::shared_ptr<torchclip::DeviceStep> make_device_step(const DeviceId& id, size_t parameters) const override {
    return std::make_shared<DeviceStep>(id, rule_, parameters, make_launcher_);
  }
  bool is_capturing(const DeviceId& id, void* stream) const override;
  uint64_t kind_of(const Inputs& inputs, bool first) const override;
  bool compiles_kernels() const override { return true; }
  void launch(bool measures, bool first) override;

  Object make_launcher_;
};

}  // namespace torchclip::triton
