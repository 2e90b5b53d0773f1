// What a device's share of a step asks of other processes.
#include "device_step.h"

namespace torchclip {

void DeviceStep::reserve_exchanges(const ParameterReader& reader) {
  const auto make = [&](Asked asked, const Cells& cells, bool by_rows, size_t units) {
    DeviceExchange& exchange = exchanges_[static_cast<size_t>(asked)];
    exchange.build(cells, sharing_->zeros, tables_, by_rows, units);
    exchange.reserve(image_);
    exchange.allocate(id_.device);
  };
  const bool measures = shape_.clips_norms || shape_.clips_rows;
  if (measures) make(Asked::kOfPolicy, sharing_->policy, shape_.clips_rows, unit_count(shape_.clip_scope, reader));
  if (rule_.clips_itself) make(Asked::kOfRule, sharing_->rule, shape_.rule_rows, unit_count(shape_.rule_scope, reader));
  make(Asked::kOfNothing, sharing_->common, false, 0);
}

// Of the last step.
void DeviceStep::forget_exchanges() {
  finish_.sums = finish_rule_.sums = UnitSums{};
  finish_.common = finish_rule_.common = nullptr;
  finish_.coefficients.shared_zeros = nullptr;
  for (RowSums* rows : {&finish_.row_sums, &finish_rule_.row_sums}) {
    rows->shared_row_count = 0;
    rows->places = 0;
  }
}

void DeviceStep::exchange(Asked asked, bool is_first) {
  share(share_arguments(asked, is_first));
  exchange_of(asked).add_up(counters_);
  take_exchange(asked, is_first);
  if (asked == Asked::kOfRule || sharing_->loss_share == 0 || !given_.loss) return;
  finish_.loss = exchange_of(asked).common_place() + kLoss;
  finish_.loss_dtype = static_cast<int32_t>(DType::kFloat64);
}

void DeviceStep::take_exchange(Asked asked, bool is_first) {
  const DeviceExchange& exchange = exchange_of(asked);
  const double* const common = is_first ? exchange.common_place() : nullptr;
  if (asked == Asked::kOfRule) {
    finish_rule_.sums = exchange.sums();
    finish_rule_.common = common;
    if (shape_.rule_rows) take_rows(exchange, tables_.long_rows.size(), finish_rule_.row_sums);
    return;
  }
  finish_.sums = exchange.sums();
  finish_.common = common;
  if (shape_.clips_rows) take_rows(exchange, tables_.long_rows.size(), finish_.row_sums);
  if (!steers_behind_exchange()) return;
  CoefficientArguments& coefficients = finish_.coefficients;
  coefficients.shared_zeros = exchange.zeros();
  const int32_t zero_cells = static_cast<int32_t>(exchange.layout().zero_cells);
  coefficients.zero_sets = coefficients.group_count == 0 ? 0 : zero_cells / coefficients.group_count;
}

void DeviceStep::take_rows(const DeviceExchange& exchange, size_t long_rows, RowSums& rows) {
  rows.place_sums = exchange.place_sums();
  rows.places = exchange.layout().places;
  rows.shared_row_count = rows.shared_rows == nullptr ? 0 : static_cast<int32_t>(long_rows);
}

ShareArguments DeviceStep::share_arguments(Asked asked, bool is_first) const {
  ShareArguments share = exchange_of(asked).arguments(image_);
  share.row_sums = asked == Asked::kOfRule ? finish_rule_.row_sums : finish_.row_sums;
  if (asked == Asked::kOfNothing) share.row_sums.shared_rows = nullptr;
  share.changes_direction = asked == Asked::kOfPolicy ? 1 : 0;
  share.zeros = zeros_.values<int64_t>();
  share.is_first = is_first ? 1 : 0;
  if (!is_first) return share;
  share.found_inf = finish_.found_inf;
  share.loss = sharing_->loss_share == 0 ? nullptr : finish_.loss;
  share.loss_dtype = finish_.loss_dtype;
  share.loss_share = sharing_->loss_share;
  share.gradients = tables_.tensors.empty() ? 0 : 1;
  share.number = exchange_of(asked).number();
  return share;
}

}  // namespace torchclip
