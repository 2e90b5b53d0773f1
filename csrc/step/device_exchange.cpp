#include "device_exchange.h"

#include <algorithm>

namespace torchclip {
namespace {

// Those of each tensor follow one another.
template <class Chunk>
std::vector<SharedRange> partials_of(const std::vector<Chunk>& chunks, size_t tensors) {
  std::vector<SharedRange> ranges(tensors);
  for (const Chunk& chunk : chunks) {
    SharedRange& range = ranges[static_cast<size_t>(chunk.tensor)];
    range.first = range.count == 0 ? chunk.partial : std::min<int64_t>(range.first, chunk.partial);
    ++range.count;
  }
  return ranges;
}

void append(const SharedRange& range, std::vector<SharedRange>& ranges) {
  if (range.count == 0) return;
  const bool follows =
      !ranges.empty() && ranges.back().share == range.share && ranges.back().first + ranges.back().count == range.first;
  if (!follows) return ranges.push_back(range);
  ranges.back().count += range.count;
}

}  // namespace

void DeviceExchange::build(const Cells& cells, const Cells& zeros, const HostTables& tables, bool by_rows,
                           size_t units) {
  *this = DeviceExchange();
  cells_ = &cells;
  layout_ = layout_of(cells, zeros);
  units_ = static_cast<int32_t>(units);
  sets_ = units == 0 ? 0 : static_cast<int32_t>(cells.units.size() / units);
  if (units * static_cast<size_t>(sets_) != cells.units.size())
    throw std::logic_error("the plan was told of the processes of another scope");
  add_partials(tables, by_rows);
  if (by_rows && cells.row_count > 0) add_rows(tables);
  add_zeros(zeros, tables);
}

DeviceExchange::Ranges DeviceExchange::ranges_of(const std::vector<std::vector<SharedRange>>& by_cell) {
  Ranges ranges{{}, {0}};
  for (const std::vector<SharedRange>& own : by_cell) {
    ranges.all.insert(ranges.all.end(), own.begin(), own.end());
    ranges.begins.push_back(static_cast<int32_t>(ranges.all.size()));
  }
  return ranges;
}

void DeviceExchange::add_partials(const HostTables& tables, bool by_rows) {
  std::vector<std::vector<SharedRange>> by_cell(cells_->units.size());
  tensors_in_cells_.assign(by_cell.size(), 0);
  const size_t tensors = by_cell.empty() ? 0 : tables.tensors.size();
  std::vector<SharedRange> own = by_rows ? partials_of(tables.row_chunks, tables.tensors.size())
                                         : partials_of(tables.chunks, tables.tensors.size());
  for (size_t index = 0; index < tensors; ++index) {
    const size_t position = tables.positions[index], cell = static_cast<size_t>(cells_->of[position]);
    own[index].share = cells_->share[position];
    append(own[index], by_cell[cell]);
    ++tensors_in_cells_[cell];
  }
  partial_ranges_ = ranges_of(by_cell);
}

void DeviceExchange::add_rows(const HostTables& tables) {
  for (const DeviceLongRow& row : tables.long_rows) {
    const size_t position = tables.positions[static_cast<size_t>(row.tensor)];
    const bool is_shared = Sharing::splits_rows(*cells_, position);
    shared_rows_.push_back(
        {is_shared ? cells_->rows[position][static_cast<size_t>(row.row)] : -1, cells_->share[position]});
  }
}

void DeviceExchange::add_zeros(const Cells& zeros, const HostTables& tables) {
  std::vector<std::vector<SharedRange>> by_cell(zeros.units.size());
  zero_elements_.assign(by_cell.size(), 0.0);
  for (size_t index = 0; !by_cell.empty() && index < tables.tensors.size(); ++index) {
    const size_t position = tables.positions[index];
    zero_elements_[static_cast<size_t>(zeros.of[position])] +=
        zeros.share[position] * static_cast<double>(tables.tensors[index].numel);
  }
  for (const Run& run : tables.runs)
    for (int64_t index = 0; !by_cell.empty() && index < run.count; ++index) {
      const DeviceChunk& chunk = tables.chunks[static_cast<size_t>(run.first + index)];
      const size_t position = tables.positions[static_cast<size_t>(chunk.tensor)];
      append({run.first_piece + index * run.pieces, run.pieces, zeros.share[position]},
             by_cell[static_cast<size_t>(zeros.of[position])]);
    }
  zero_ranges_ = ranges_of(by_cell);
}

void DeviceExchange::reserve(DeviceImage& image) {
  ranges_ = image.reserve<SharedRange>(partial_ranges_.all.size());
  begins_ = image.reserve<int32_t>(partial_ranges_.begins.size());
  tensors_ = image.reserve<int32_t>(tensors_in_cells_.size());
  rows_ = image.reserve<SharedRow>(shared_rows_.size());
  zeros_ = image.reserve<SharedRange>(zero_ranges_.all.size());
  zero_begins_ = image.reserve<int32_t>(zero_ranges_.begins.size());
  elements_ = image.reserve<double>(zero_elements_.size());
}

void DeviceExchange::set(DeviceImage& image) const {
  image.set(ranges_, partial_ranges_.all);
  image.set(begins_, partial_ranges_.begins);
  image.set(tensors_, tensors_in_cells_);
  image.set(rows_, shared_rows_);
  image.set(zeros_, zero_ranges_.all);
  image.set(zero_begins_, zero_ranges_.begins);
  image.set(elements_, zero_elements_);
}

void DeviceExchange::allocate(const Device& device) { numbers_ = Buffer::zeros({layout_.count()}, "float64", device); }

ShareArguments DeviceExchange::arguments(const DeviceImage& image) const {
  ShareArguments share{};
  share.numbers = numbers_.values<double>();
  share.layout = layout_;
  share.ranges = image.at(ranges_);
  share.range_begins = image.at(begins_);
  share.tensors = image.at(tensors_);
  share.zero_ranges = image.at(zeros_);
  share.zero_begins = image.at(zero_begins_);
  share.zero_elements = image.at(elements_);
  return share;
}

}  // namespace torchclip
