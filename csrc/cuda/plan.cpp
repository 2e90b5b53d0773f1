#include "plan.h"

namespace torchclip::cuda {

void Plan::launch(bool measures, bool first) {
  DeviceStep& main = device(0);
  if (is_alone() && main.fits_in_cache() && measures != rule_.clips_itself && (measures || !first)) {
    const DeviceGuard guard(main.id());
    return measures ? main.norm_and_update() : main.direction_and_update();
  }
  if (measures || first) measure(measures);
  if (rule_.clips_itself) measure_directions();
  on_each([this](DeviceStep& device) { device.update_pass(written_); });
}

// Norms, factors and coefficients; without a policy that measures, what else decides about the coefficients.
void Plan::measure(bool measures) {
  if (measures) {
    on_each([this](DeviceStep& device) { device.norm_pass(is_alone()); });
    if (is_alone()) return;
  }
  if (sharing_) {
    ask(measures ? Asked::kOfPolicy : Asked::kOfNothing);
  } else if (measures) {
    gather(shape_.clip_scope);
  }
  on_each([](DeviceStep& device) { device.finish(); });
}

void Plan::measure_directions() {
  on_each([this](DeviceStep& device) { device.direction_pass(is_alone()); });
  if (is_alone()) return;
  if (sharing_) {
    ask(Asked::kOfRule);
  } else {
    gather(scope_);
  }
  on_each([](DeviceStep& device) { device.finish_rule(); });
}

// Every device gets the sums of all, in the same order, so that they decide alike. `scope`: over which they are taken.
void Plan::gather(Scope scope) {
  const int64_t numbers = static_cast<int64_t>(unit_count(scope, reader_)) * ExchangeLayout::kIn<UnitSum>;
  for (const auto& device : devices_)
    for (size_t from = 0; from < devices_.size(); ++from)
      device->gathered_sums()
          .narrow(static_cast<int64_t>(from) * numbers, numbers)
          .copy_from(devices_[from]->unit_sums().narrow(0, numbers), /*non_blocking=*/true);
}

}  // namespace torchclip::cuda
