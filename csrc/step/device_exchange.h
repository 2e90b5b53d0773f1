// One exchange of a device's step with other processes: the tables that it is filled from, and its numbers, which go
// out as this process's and come back as those of all.
#pragma once

#include <vector>

#include "device_image.h"
#include "host_tables.h"

namespace torchclip {

class DeviceExchange {
 public:
  // The tables of a pass, or of none; those of rows apart where it is `by_rows`. `units`: of its scope.
  void build(const Cells& cells, const Cells& zeros, const HostTables& tables, bool by_rows, size_t units);
  void reserve(DeviceImage& image);
  void set(DeviceImage& image) const;
  void allocate(const Device& device);

  // What a launcher fills the numbers from, but for what changes by the step.
  ShareArguments arguments(const DeviceImage& image) const;
  // [long rows]; null where no others have parts of rows.
  const SharedRow* rows(const DeviceImage& image) const { return rows_.count == 0 ? nullptr : image.at(rows_); }
  // Adds the numbers up over processes, on the current stream. `counters`: see FinishTables. Throws what that raises.
  void add_up(const Buffer& counters) const { cells_->add(numbers_.tensor(), counters.tensor()); }
  // What this process goes by: see torchclip/distributed/agreed.py.
  double number() const { return to_double(cells_->add.attribute("number").get()); }
  // Whether a graph that is being captured can.
  bool is_capturable() const { return to_bool(cells_->add.attribute("is_capturable").get()); }

  const Buffer& numbers() const { return numbers_; }
  // [kCommonNumbers]
  Buffer common() const { return numbers_.narrow(layout_.count() - kCommonNumbers, kCommonNumbers); }
  double* common_place() const { return layout_.common(numbers_.values<double>()); }
  const Object& add() const { return cells_->add; }
  const ExchangeLayout& layout() const { return layout_; }
  int32_t units() const { return units_; }
  int32_t sets() const { return sets_; }
  UnitSums sums() const { return {nullptr, nullptr, units_, sets_, layout_.sums(numbers_.values<double>())}; }
  const Partial* place_sums() const { return layout_.rows(numbers_.values<double>()); }
  const ZeroCount* zeros() const { return layout_.zeros(numbers_.values<double>()); }

 private:
  // Ranges of partial sums, or of counts of zeros, by the cell that they count in.
  struct Ranges {
    std::vector<SharedRange> all;
    std::vector<int32_t> begins;  // [cells + 1]
  };
  static Ranges ranges_of(const std::vector<std::vector<SharedRange>>& by_cell);
  void add_partials(const HostTables& tables, bool by_rows);
  void add_rows(const HostTables& tables);
  void add_zeros(const Cells& zeros, const HostTables& tables);

  const Cells* cells_ = nullptr;
  ExchangeLayout layout_;
  int32_t units_ = 0, sets_ = 0;
  Ranges partial_ranges_, zero_ranges_;
  std::vector<int32_t> tensors_in_cells_;
  std::vector<SharedRow> shared_rows_;
  std::vector<double> zero_elements_;
  Section<SharedRange> ranges_, zeros_;
  Section<int32_t> begins_, tensors_, zero_begins_;
  Section<SharedRow> rows_;
  Section<double> elements_;
  Buffer numbers_;
};

}  // namespace torchclip
