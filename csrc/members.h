// The Python objects behind a step, re-read at every step in C++: param groups, parameters, gradients and state.
// Reading 1000 gradients from Python costs a millisecond; here it costs some tens of microseconds.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "python_access.h"
#include "tables.h"

namespace torchclip {

// One parameter of the optimizer, with what was last seen of its gradient and state. Small and without heap blocks,
// except for a strided parameter's layout: a step walks over all of them.
struct Member {
  py::object object;  // the Parameter; its tensor is not held, so that torch.utils.swap_tensors can exchange it
  int32_t group = 0;
  bool active = false;  // has a gradient in this step
  bool fresh = false;   // its state was made for this step
  DType dtype = DType::kFloat32;
  DType state_dtype = DType::kFloat32;
  unsigned used_slots = 0;
  const void* last_gradient = nullptr;  // an address to prefetch, never followed
  uint64_t fingerprint = 0;             // of the kind and geometry that were found to be served
  py::object state;                     // optimizer.state[parameter], null before it exists
  DictSeen state_seen;                  // of `state` when slots and scalars were read
  at::Tensor slots[kMaxSlots];
  at::Tensor scalars[kMaxScalars];
  void* operands[kOperands] = {};  // this step's data pointers
  void* scalar_values[kMaxScalars] = {};
  bool scalar_is_double[kMaxScalars] = {};  // float otherwise
  std::unique_ptr<StridedLayout> layout;    // null when all operands share one dense layout

  const at::Tensor& parameter() const { return THPVariable_Unpack(object.ptr()); }
  double scalar(size_t i) const {
    return scalar_is_double[i] ? *static_cast<const double*>(scalar_values[i])
                               : *static_cast<const float*>(scalar_values[i]);
  }
  void set_scalar(size_t i, double value) const {
    if (scalar_is_double[i]) {
      *static_cast<double*>(scalar_values[i]) = value;
    } else {
      *static_cast<float*>(scalar_values[i]) = static_cast<float>(value);
    }
  }
};

// Hyperparameters that the pipeline reads, whatever the rule.
enum PipelineHyperparameter : size_t { kLr, kWeightDecay, kDecoupled, kMaximize };

// One param group: its dict and the numbers read from it.
struct Group {
  py::object dict;
  std::vector<double> pipeline;         // by PipelineHyperparameter
  std::vector<double> hyperparameters;  // lr, then the rule's own
  unsigned used_slots = 0;
};

// Names of a rule's hyperparameters (keys of a param group, where a tuple stands for several numbers), slots and
// scalars.
struct Names {
  std::vector<std::string> hyperparameters;
  std::vector<std::string> slots;
  std::vector<std::string> scalars;
};

class Members {
 public:
  Members(const Names& names, unsigned (*used_slots)(const double*));

  // Re-reads everything. Returns the positions of parameters that cannot step as they are: state is missing, or the
  // parameter, its gradient or its state is of a kind that the fused passes do not serve. Nothing is written.
  std::vector<int64_t> refresh(const py::list& param_groups, const py::dict& state);

  std::vector<Member>& all() { return members_; }
  const std::vector<Member>& all() const { return members_; }
  const std::vector<Group>& groups() const { return groups_; }
  // For Python's garbage collector: the objects held here, and letting go of them.
  int traverse(visitproc visit, void* arg) const;
  void clear();
  // True when the active parameters, or the geometry of one, changed since the last call.
  bool take_changed() { return std::exchange(changed_, false); }

 private:
  bool structure_matches(const py::list& param_groups) const;
  void read_structure(const py::list& param_groups);
  void read_groups();
  void bind_states(const py::dict& state);
  void bind_state(Member& member);
  void prefetch(size_t position) const;
  bool needs_state(unsigned used_slots) const { return used_slots != 0 || !scalar_keys_.empty(); }
  bool refresh_unchanged(Member& member) const;
  bool refresh_changed(Member& member);
  uint64_t fingerprint_of(const Member& member, unsigned used, const at::Tensor& gradient) const;
  bool examine(Member& member, const at::Tensor& gradient);
  bool map_layout(Member& member, const at::Tensor& gradient) const;

  std::vector<py::object> hyperparameter_keys_, slot_keys_, scalar_keys_, pipeline_keys_;
  unsigned (*used_slots_)(const double*);
  std::vector<Group> groups_;
  std::vector<Member> members_;
  std::vector<PyObject*> state_dicts_;  // the values of optimizer.state in order, to notice a change
  std::vector<char> unchanged_;         // [members], scratch of refresh(); not bool, whose elements share bytes
  bool changed_ = true;
};

}  // namespace torchclip
