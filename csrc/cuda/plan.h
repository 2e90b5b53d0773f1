// The plan of a step that CUDA's kernels take, on one device or several.
#pragma once

#include <string>

#include "../step/gpu_plan.h"
#include "device_step.h"

namespace torchclip::cuda {

#if defined(TORCHCLIP_CUDA_EMULATOR)
constexpr DeviceType kDeviceType = kCpu;
#else
constexpr DeviceType kDeviceType = kCuda;
#endif

class Plan final : public GpuPlan {
 public:
  Plan(const std::string& rule, const Names& names, Scope scope) : GpuPlan(rule, names, scope, kDeviceType) {}

 private:
  std::shared_ptr<torchclip::DeviceStep> make_device_step(const DeviceId& id, size_t parameters) const override {
    return std::make_shared<DeviceStep>(id, rule_, parameters);
  }
  bool is_capturing(const DeviceId&, void* stream) const override { return cuda::is_capturing(stream); }
  uint64_t kind_of(const Inputs&, bool) const override { return 0; }
  bool compiles_kernels() const override { return false; }
  void launch(bool measures, bool first) override;

  DeviceStep& device(size_t index) const { return static_cast<DeviceStep&>(*devices_[index]); }
  template <class Body>
  void on_each(const Body& body) {
    on_each_device([&](torchclip::DeviceStep& device) { body(static_cast<DeviceStep&>(device)); });
  }
  void measure(bool measures);
  void measure_directions();
  void gather(Scope scope);
};

}  // namespace torchclip::cuda
