// The Python objects behind a step, re-read at every step in C++: param groups, parameters, gradients and state.
// Reading 1000 gradients from Python costs a millisecond; here it costs some tens of microseconds.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "group_numbers.h"
#include "python_access.h"
#include "rule_table.h"
#include "tables.h"

namespace torchclip {

inline double read_number(const void* values, bool is_double, int64_t i) {
  return is_double ? static_cast<const double*>(values)[i] : static_cast<const float*>(values)[i];
}
inline void write_number(void* values, bool is_double, int64_t i, double value) {
  if (is_double) {
    static_cast<double*>(values)[i] = value;
  } else {
    static_cast<float*>(values)[i] = static_cast<float>(value);
  }
}

// What a parameter has besides in an optimizer that looks ahead, sums norms or clips by rows.
struct RecordExtra {
  at::Tensor slow;  // Lookahead's weights
  at::Tensor sums;  // of squared norms: a number, or one for each row
  void* slow_values = nullptr;
  void* sum_values = nullptr;
  bool sum_is_double = false;
  Rows rows;  // of the leading dimension; below two dimensions the tensor as one

  double sum(int64_t i) const { return read_number(sum_values, sum_is_double, i); }
  void set_sum(int64_t i, double value) const { write_number(sum_values, sum_is_double, i, value); }
};

// One parameter of the optimizer, with what was last seen of its gradient and state. Small and without heap blocks,
// except for a strided parameter's layout: a step walks over all of them.
struct ParameterRecord {
  py::object object;  // the Parameter; its tensor is not held, so that torch.utils.swap_tensors can exchange it
  int32_t group = 0;
  bool active = false;  // has a gradient in this step
  // No step has been taken with the state that it has: its next one is a first.
  bool fresh = false;
  bool replaced = false;       // its state is made of other tensors than in the tables of last_position
  int32_t last_position = -1;  // among all, when tables were last built; -1: it was not there
  DType dtype = DType::kFloat32;
  DType state_dtype = DType::kFloat32;
  unsigned used_slots = 0;
  const void* last_gradient = nullptr;  // an address to prefetch, never followed
  uint64_t fingerprint = 0;             // of the kind and geometry that were found to be served
  py::object state;                     // optimizer.state[parameter], null before it exists
  DictSeen state_seen;                  // of `state` when slots and scalars were read
  at::Tensor slots[kMaxSlots];
  at::Tensor scalars[kMaxScalars];
  void* operands[kSlow] = {};  // this step's data pointers
  void* scalar_values[kMaxScalars] = {};
  bool scalar_is_double[kMaxScalars] = {};  // float otherwise
  std::unique_ptr<StridedLayout> layout;    // null when all operands share one dense layout
  std::unique_ptr<RecordExtra> extra;

  const at::Tensor& parameter() const { return THPVariable_Unpack(object.ptr()); }
  // It has a gradient, and was found to be served by the last refresh.
  bool can_step() const { return fingerprint != 0; }
  double scalar(size_t i) const { return read_number(scalar_values[i], scalar_is_double[i], 0); }
  void set_scalar(size_t i, double value) const { write_number(scalar_values[i], scalar_is_double[i], 0, value); }
};

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
  ParameterReader(const RuleEntry& rule, const Names& names, Sums sums, c10::DeviceType device, bool reads_numbers);

  // `by_rows`: the step clips by rows. `own_clips`: how many param groups have their policies in the plan; 0 where no
  // group has one of its own.
  void configure(bool lookahead, bool by_rows, size_t own_clips = 0) {
    changed_ |= lookahead != lookahead_ || by_rows != by_rows_;
    lookahead_ = lookahead;
    by_rows_ = by_rows;
    for (ParameterRecord& record : records_) {
      record.fingerprint = 0;
      record.extra.reset();
    }
    remember_groups(own_clips);
  }

  // Re-reads everything. Returns the positions of parameters that cannot step as they are: state is missing, or the
  // parameter, its gradient or its state is of a kind that the fused passes do not serve. Nothing is written.
  std::vector<int64_t> refresh(const py::object& param_groups, const py::dict& state);

  // Pairs of a parameter and its slots by name, for those that `unstarted` says no step has been taken with.
  template <class Unstarted>
  py::list list_unstarted(const Unstarted& unstarted) const {
    py::list result;
    for (const ParameterRecord& record : records_)
      if (unstarted(record)) result.append(py::make_tuple(record.object, slots_of(record)));
    return result;
  }

  // Of the parameters that step: so that another thread, which may take a tensor away while this one has let go of the
  // GIL, does not take its memory.
  void hold_memory(std::vector<c10::Storage>& held) const;
  void hold_gradients(std::vector<c10::Storage>& held) const;  // alone, of those that were found to be plain

  std::vector<ParameterRecord>& records() { return records_; }
  const std::vector<ParameterRecord>& records() const { return records_; }
  const std::vector<Group>& groups() const { return groups_; }
  // For Python's garbage collector: the objects held here, and letting go of them.
  int traverse(visitproc visit, void* arg) const;
  void clear();
  // True when the active parameters, or the geometry of one, changed since the last call.
  bool take_changed() { return std::exchange(changed_, false); }

 private:
  bool structure_matches(const py::object& param_groups) const;
  void read_structure(const py::object& param_groups);
  void remember_groups(size_t own_clips);
  bool groups_changed();
  void read_groups();
  // Of the parameter's device, with elements that can be reached.
  bool is_beside(const at::Tensor& tensor, const at::Tensor& parameter) const;
  bool is_state_beside(const at::Tensor& tensor, const at::Tensor& parameter) const;
  void bind_states(const py::dict& state);
  bool bind_state(ParameterRecord& record);
  py::dict slots_of(const ParameterRecord& record) const;
  void prefetch(size_t position) const;
  bool has_extra() const { return lookahead_ || by_rows_ || sums_ == Sums::kTensor || sums_ == Sums::kRow; }
  bool needs_state(unsigned used_slots) const {
    return used_slots != 0 || !scalar_keys_.empty() || lookahead_ || sums_ == Sums::kTensor || sums_ == Sums::kRow;
  }
  unsigned used_slots_of(const ParameterRecord& record) const;
  bool sums_apart(const ParameterRecord& record) const;
  bool refresh_unchanged(ParameterRecord& record) const;
  bool has_memory(const ParameterRecord& record) const;
  bool refresh_changed(ParameterRecord& record);
  uint64_t fingerprint_of(const ParameterRecord& record, unsigned used, const at::Tensor& gradient) const;
  bool can_serve(ParameterRecord& record, const at::Tensor& gradient);
  bool examine_extras(ParameterRecord& record) const;
  bool map_layout(ParameterRecord& record, const at::Tensor& gradient) const;

  GroupReader group_reader_;
  std::vector<py::object> slot_keys_, scalar_keys_, argument_keys_;
  py::object slow_key_, clip_key_;
  unsigned (*used_slots_)(const double*);
  Sums sums_;
  c10::DeviceType device_;
  bool reads_numbers_;
  bool takes_complex_;
  bool lookahead_ = false;
  bool by_rows_ = false;
  size_t own_clips_ = 0;
  std::vector<Group> groups_;
  std::vector<ParameterRecord> records_;
  std::vector<PyObject*> state_dicts_;  // the values of optimizer.state in order, to notice a change
  std::vector<char> unchanged_;         // [records], scratch of refresh(); not bool, whose elements share bytes
  bool changed_ = true;
};

}  // namespace torchclip
