// The sums of a step of which other processes have parts: out to them, and back as those of all.
#include <cmath>
#include <utility>

#include "plan.h"

namespace torchclip {

// What adds them up lets go of the GIL, and other threads may replace gradients and state meanwhile.
void Plan::exchange(SharedSums& sums) {
  if (held_.empty()) reader_.hold_memory(held_);
  CommonNumbers all = has_asked_ ? CommonNumbers{} : common_;
  std::vector<ZeroCount> zeros = has_asked_ ? std::vector<ZeroCount>(zeros_of_cells_.size()) : zeros_of_cells_;
  sums.exchange(all, zeros);
  if (std::exchange(has_asked_, true)) return;  // what all processes have is not added up again
  zeros_of_cells_ = zeros;
  if (sharing_.loss_share == 0) all[kLoss] = common_[kLoss];
  common_ = all;
}

void Plan::exchange_common() {
  SharedSums sums(sharing_.common, sharing_.zeros);
  exchange(sums);
}

// This process's zeros, and how many elements they are among, for the first exchange of the step.
void Plan::fill_zero_cells() {
  const Cells& cells = sharing_.zeros;
  zeros_of_cells_.assign(cells.units.size(), {});
  if (!any_target(reader_.groups())) return;
  for (const TensorEntry& tensor : tables_.tensors) {
    const size_t position = static_cast<size_t>(tensor.parameter);
    if (!reader_.groups()[static_cast<size_t>(tensor.group)].has_target()) continue;
    ZeroCount& cell = zeros_of_cells_[static_cast<size_t>(cells.of[position])];
    cell.zeros += cells.share[position] * static_cast<double>(count_zeros_in(position));
    cell.elements += cells.share[position] * static_cast<double>(reader_.records()[position].operands.count);
  }
}

void Plan::share_units(std::vector<UnitSum>& units, const Cells& cells) {
  SharedSums shared(cells, sharing_.zeros);
  for (size_t chunk = 0; chunk < partials_.size(); ++chunk) {
    const Partial& partial = partials_[chunk];
    shared.add(tables_.tensors[static_cast<size_t>(tables_.chunks[chunk].tensor)].parameter, partial.gradient,
               partial.direction);
    if (!std::isfinite(partial.gradient) && !has_asked_) common_[kLost] += 1;
  }
  for (const TensorEntry& tensor : tables_.tensors) shared.count(tensor.parameter);
  exchange(shared);
  shared.for_each_cell([&](size_t unit, const UnitSum& sum) { units[unit].add(sum); });
}

// `of_policy`: the second sum of a row is that of the weights, and that of the total what is left of it by clipping.
// Rows that this process holds alone are clipped before the exchange, the others are known after it to all that hold
// parts of them.
void Plan::share_rows(RowSums& sums, const Cells& cells, bool of_policy) {
  SharedSums shared(cells, sharing_.zeros);
  const auto left_of = [this](const Partial& row) {
    const double factor = unit_factor(row);
    return factor * factor * row.gradient;
  };
  const auto for_each_split = [&](const auto& visit) {
    for (size_t tensor = 0; tensor < tables_.tensors.size(); ++tensor) {
      const int32_t parameter = tables_.tensors[tensor].parameter;
      const std::vector<int64_t>& places = shared.rows_of(parameter);
      const RowMap& map = tables_.row_maps[tensor];
      for (size_t row = 0; row < static_cast<size_t>(map.rows.count); ++row)
        visit(parameter, sums.rows[static_cast<size_t>(map.first) + row],
              places.empty() ? nullptr : &shared.row(places[row]));
    }
  };
  for (size_t tensor = 0; tensor < tables_.tensors.size(); ++tensor) {
    const int32_t parameter = tables_.tensors[tensor].parameter;
    shared.count(parameter);
    shared.add(parameter, sums.rest[tensor].gradient, sums.rest[tensor].direction);
  }
  for_each_split([&](int32_t parameter, const Partial& row, Partial* place) {
    const double second = !of_policy ? row.direction : place == nullptr ? left_of(row) : 0;
    shared.add(parameter, row.gradient, second);
    if (place == nullptr) return;
    const double share = cells.share[static_cast<size_t>(parameter)];
    place->add({share * row.gradient, share * row.direction});
  });
  exchange(shared);
  sums.total = {};
  shared.for_each_cell([&](size_t, const UnitSum& sum) { sums.total.add(sum); });
  for_each_split([&](int32_t, Partial& row, const Partial* place) {
    if (place != nullptr) row = *place;
  });
  for (int64_t place = 0; of_policy && place < cells.row_count; ++place)
    sums.total.direction += left_of(shared.row(place));
}

}  // namespace torchclip
