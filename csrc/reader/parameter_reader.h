// The Python objects behind a step, re-read at every step in C++: param groups, parameters, gradients and state.
// Reading 1000 gradients from Python costs a millisecond; here it costs some tens of microseconds.
#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../cpu/parallel.h"
#include "../rule_table.h"
#include "group_numbers.h"
#include "holding.h"
#include "parameter_record.h"

namespace torchclip {

// What refresh() returns in place of positions: the param groups' own policies are not those that the plan was
// configured for, or a group has got a key that belongs to the optimizer.
constexpr int64_t kGroupsChanged = -1;

// Where a rule keeps its sums of squared norms.
enum class Sums : int { kNone, kShared, kTensor, kRow };

// What Python calls the parts of a rule.
struct Names {
  std::vector<Key> keys;  // of a param group: those of PipelineHyperparameter, the rule's own, others
  std::vector<std::string> slots;
  std::vector<std::string> scalars;
};

// The slot of a rule that sums norms that holds a sum for each element, of parameters below two dimensions.
constexpr size_t kSumSlot = 1;

class ParameterReader {
 public:
  // `sums`: of the rule over its scope. `device`: where the parameters, their gradients and their state lie.
  // `reads_numbers`: numbers of state and a tensor lr are read on the host, which a device would have to be waited for.
  ParameterReader(const RuleEntry& rule, const Names& names, Sums sums, DeviceType device, bool reads_numbers);

  // `averages`: WeightEMA is in Lookahead's place. `by_rows`: the step clips by rows. `own_clips`: how many param
  // groups have their policies in the plan; 0 where no group has one of its own.
  void configure(bool lookahead, bool averages, bool by_rows, size_t own_clips = 0) {
    changed_ |= lookahead != lookahead_ || averages != averages_ || by_rows != by_rows_;
    lookahead_ = lookahead;
    averages_ = averages;
    by_rows_ = by_rows;
    for (ParameterRecord& record : records_) {
      record.fingerprint = 0;
      record.extra.reset();
    }
    remember_groups(own_clips);
  }

  // From the next refresh on, parameters and state are held as a precision policy has it.
  void hold(Holding holding);
  // As Holding::wide.
  void keep_wide(std::vector<char> wide);

  // Re-reads everything. Returns the positions of parameters that cannot step as they are: state is missing, or the
  // parameter, its gradient or its state is of a kind that the fused passes do not serve. Nothing is written.
  std::vector<int64_t> refresh(const Object& param_groups, const Object& state);

  // Pairs of a parameter and its slots and master by name, for those that `unstarted` says no step has been taken with.
  template <class Unstarted>
  std::vector<Object> list_unstarted(const Unstarted& unstarted) const {
    std::vector<Object> result;
    for (const ParameterRecord& record : records_)
      if (unstarted(record)) result.push_back(make_tuple(record.object, slots_of(record)));
    return result;
  }

  // Of the parameters that step: so that another thread, which may take a tensor away while this one has let go of the
  // GIL, does not take its memory.
  void hold_memory(HeldMemory& held) const;
  void hold_gradients(HeldMemory& held) const;  // alone, of those that were found to be plain

  std::vector<ParameterRecord>& records() { return records_; }
  const std::vector<ParameterRecord>& records() const { return records_; }
  const Holding& holding() const { return holding_; }
  const std::vector<Group>& groups() const { return groups_; }
  // For Python's garbage collector: the objects held here, and letting go of them.
  int traverse(visitproc visit, void* arg) const;
  void clear();
  // Calls `body(begin, end)` for shares of `count` items, in several threads where the table of functions allows it. A
  // thousand parameters are many cache misses, which two threads wait for in half the time. On the CPU the passes wake
  // all threads anyway; beside a GPU they sleep, and to wake sixteen takes longer than hundreds of parameters do.
  template <class Body>
  void in_shares(int64_t count, const Body& body) const {
    const int64_t most = reads_numbers_ ? std::numeric_limits<int>::max() : 1 + count / kItemsToWakeFor;
    const bool alone = !reader().reads_in_threads || count < cpu::kSerialItems;
    const int wanted = alone ? 1 : static_cast<int>(std::min<int64_t>(cpu::thread_count(), most));
    if (wanted == 1) return body(0, count);
    cpu::run_in_threads(
        wanted, [&](int thread, int threads) { body(count * thread / threads, count * (thread + 1) / threads); });
  }
  // True when the active parameters, or the geometry of one, changed since the last call.
  bool take_changed() { return std::exchange(changed_, false); }

 private:
  bool structure_matches(const Object& param_groups) const;
  void read_structure(const Object& param_groups);
  void remember_groups(size_t own_clips);
  bool groups_changed();
  bool differentiates() const;
  void read_groups();
  // Of the parameter's device, with elements that can be reached.
  bool is_beside(const TensorInfo& tensor, const TensorInfo& parameter) const;
  bool describe_state(const Tensor& tensor, const TensorInfo& parameter, TensorInfo& info) const;
  void bind_states(const Object& state);
  bool bind_state(ParameterRecord& record);
  Object slots_of(const ParameterRecord& record) const;
  bool has_extra() const {
    return lookahead_ || by_rows_ || sums_ == Sums::kTensor || sums_ == Sums::kRow || holding_.is_given();
  }
  bool needs_more_state() const {
    return !scalar_keys_.empty() || holding_.keeps_beside() || lookahead_ || sums_ == Sums::kTensor ||
           sums_ == Sums::kRow;
  }
  bool sums_apart(const ParameterRecord& record) const;
  RefreshContext context() const;
  bool refresh_changed(ParameterRecord& record, const RefreshContext& context);
  bool can_serve(ParameterRecord& record, const Tensor& gradient);
  struct Described;
  bool describe_slots(ParameterRecord& record, Described& all) const;
  bool describe_held(ParameterRecord& record, Described& all) const;
  bool describe_scalars(ParameterRecord& record, const TensorInfo& parameter) const;
  bool describe_extras(ParameterRecord& record, Described& all) const;
  bool map_layout(ParameterRecord& record, const Described& all) const;

  static constexpr int64_t kItemsToWakeFor = 512;  // beside a GPU, for each thread that helps

  GroupReader group_reader_;
  std::vector<Object> slot_keys_, scalar_keys_, argument_keys_;
  std::vector<Object> beside_keys_;  // [1 + slots] under a precision policy; the key of what is not kept is null
  Object slow_key_, ema_key_, clip_key_, params_key_, differentiable_key_;
  unsigned (*used_slots_)(const double*);
  Sums sums_;
  DeviceType device_;
  bool reads_numbers_;
  bool takes_complex_;
  bool lookahead_ = false;  // or WeightEMA
  bool averages_ = false;
  bool by_rows_ = false;
  size_t own_clips_ = 0;
  Holding holding_;
  std::vector<Group> groups_;
  std::vector<ParameterRecord> records_;
  std::vector<PyObject*> state_dicts_;    // the values of optimizer.state in order, to notice a change
  std::vector<unsigned> used_of_groups_;  // [groups]
  std::vector<uint8_t> unchanged_;        // [records], scratch of refresh(); not bool, whose elements share bytes
  bool changed_ = true;
};

}  // namespace torchclip
