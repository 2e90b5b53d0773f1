// The launches of CUDA's kernels over one device's share of a step.
#pragma once

#include "../step/device_step.h"
#include "passes.h"

namespace torchclip::cuda {

class DeviceStep final : public torchclip::DeviceStep {
 public:
  using torchclip::DeviceStep::DeviceStep;

  // The passes, in this order. `alone`: no other device or process takes part, and the last block of a norm pass
  // decides.
  void norm_pass(bool alone);
  void finish();  // without a norm pass, or behind those of all devices, or an exchange
  void direction_pass(bool alone);
  void finish_rule();
  void update_pass(bool& written);  // which becomes true with the first launch
  // A norm pass and the update in one launch.
  void norm_and_update();
  void direction_and_update();
  // A single run whose operands all stay in the second-level cache, with kernels that measure and update in one launch.
  bool fits_in_cache() const { return fits_in_cache_; }

 private:
  template <class Launcher>
  struct Planned {
    Launcher launch;
    int64_t first, count;
    uint32_t blocks;
    Types types = {};  // see PassArguments
    int64_t first_kept = 0;
  };
  template <class Launcher>
  static void plan_launch(const Launch<Launcher>& launch, const Types& types, int64_t first, int64_t count, bool merges,
                          std::vector<Planned<Launcher>>& planned);
  template <class Launcher>
  void plan_kept(int64_t bytes, std::vector<Planned<Launcher>>& planned) const;
  template <class Launcher>
  static uint32_t total_blocks(const std::vector<Planned<Launcher>>& planned) {
    uint32_t blocks = 0;
    for (const Planned<Launcher>& launch : planned) blocks += launch.blocks;
    return blocks;
  }

  Cutting cutting() const override { return {}; }
  bool rides_along() const override { return true; }
  bool writes_in_one() const override { return false; }
  void upload(const Buffer& memory, Extent extent, const void* from) override;
  void share(const ShareArguments& arguments) override { launch_share(arguments, stream_); }
  void plan_launches() override;
  uint32_t norm_blocks() const override { return total_blocks(norms_); }
  uint32_t direction_blocks() const override { return total_blocks(directions_); }
  void set_own() override { follows_own_pass_ = false; }

  void find_run_launchers();
  const Launchers& launchers_of(const Run& run) const {
    return launchers_[static_cast<size_t>(&run - tables_.runs.data())];
  }
  bool plan_one_launch();
  UnitSums gathered(int32_t units) const;
  void after_finish();
  void launch_directions();
  void launch_finish_alone();
  template <class Launcher>
  void set_pass(const Planned<Launcher>& planned);
  void set_update(const Run& run);

  std::vector<Launchers> launchers_;  // [runs]
  std::vector<Planned<NormLauncher>> norms_;
  std::vector<Planned<DirectionLauncher>> directions_;
  Planned<NormLauncher> norm_and_update_{};
  Planned<DirectionLauncher> direction_and_update_{};
  bool fits_in_cache_ = false;
  int64_t cache_bytes_ = 0;
  uint32_t early_blocks_ = 0;      // see PassArguments
  bool follows_own_pass_ = false;  // the last launch was one of this step, which itself waits for all before it
};

}  // namespace torchclip::cuda
