// What the plan of a step knows of other processes: which of its sums they have parts of, where their elements are in
// whole tensors, and the one call that adds the sums up. torchclip/distributed says which processes those are.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "../python_access.h"
#include "exchange_layout.h"

namespace torchclip {

// How the sums of one norm pass go to other processes: as cells, each of which belongs to one unit of the scope and is
// added up over the same processes. Rows of which others hold parts have places of their own.
struct Cells {
  std::vector<int32_t> of;     // [parameters], the cell that each counts in
  std::vector<double> share;   // [parameters], what part of this process's sum counts, in (0, 1]: others have copies
  std::vector<int32_t> units;  // [cells], the unit of each
  std::vector<std::vector<int64_t>> rows;  // [parameters], for each local row its place among all; or none
  int64_t row_count = 0;                   // places of rows
  Object add;  // called with a writable view of the float64 numbers of an exchange, adds them up over processes
};

struct Sharing {
  bool asks = false;              // other processes are asked for their parts of sums
  Cells policy, rule;             // of the clip policy's pass, and of that of a rule that clips itself
  Cells common;                   // of no sum: for what every exchange ends in
  Cells zeros;                    // of param groups, for the zeros that thresholds go by; nothing adds these alone
  double loss_share = 0;          // what part of this process's loss counts; 0: others are not asked for theirs
  std::vector<DrawPlace> places;  // [parameters], or empty: parameters are whole, and numbered as they stand

  explicit operator bool() const { return asks; }
  // Whether the pass keeps the rows of a parameter apart that others have parts of.
  static bool splits_rows(const Cells& cells, size_t parameter) {
    return parameter < cells.rows.size() && !cells.rows[parameter].empty();
  }
};

// What the processes are asked in one exchange: the sums of the clip policy's pass, those of a rule's own, or none.
enum class Asked : int { kOfPolicy, kOfRule, kOfNothing };
constexpr int kAsked = 3;

// From (add, policy, rule, loss_share, places, zeros); None for `add`, that of no sums, asks nothing of others.
Sharing sharing_from(const std::vector<Object>& parts);

using CommonNumbers = std::array<double, kCommonNumbers>;

// Of an exchange whose sums go by `cells`.
inline ExchangeLayout layout_of(const Cells& cells, const Cells& zeros) {
  return {static_cast<int64_t>(cells.units.size()), cells.row_count, static_cast<int64_t>(zeros.units.size())};
}

// The numbers of one exchange on the host. Those that the processes agree by are written by what adds them up.
class SharedSums {
 public:
  SharedSums(const Cells& cells, const Cells& zeros)
      : cells_(cells), layout_(layout_of(cells, zeros)), values_(static_cast<size_t>(layout_.count()), 0.0) {}

  // `direction`: of the rule's pass; for a policy by rows the sum of squares after clipping.
  void add(int32_t parameter, double gradient, double direction) {
    const double share = cells_.share[static_cast<size_t>(parameter)];
    cell_of(parameter).add({share * gradient, share * direction});
  }
  void count(int32_t parameter) { cell_of(parameter).count += 1; }
  const std::vector<int64_t>& rows_of(int32_t parameter) const { return cells_.rows[static_cast<size_t>(parameter)]; }
  Partial& row(int64_t place) { return layout_.rows(values_.data())[place]; }

  // Adds everything up over processes. `zeros`: [cells of zeros]. Throws what that raises.
  void exchange(CommonNumbers& common, std::vector<ZeroCount>& zeros);

  // What the cells of a unit come to.
  template <class Visit>
  void for_each_cell(const Visit& visit) {
    for (size_t cell = 0; cell < cells_.units.size(); ++cell)
      visit(static_cast<size_t>(cells_.units[cell]), layout_.sums(values_.data())[cell]);
  }

 private:
  UnitSum& cell_of(int32_t parameter) {
    return layout_.sums(values_.data())[cells_.of[static_cast<size_t>(parameter)]];
  }
  const Cells& cells_;
  ExchangeLayout layout_;
  std::vector<double> values_;
};

}  // namespace torchclip
