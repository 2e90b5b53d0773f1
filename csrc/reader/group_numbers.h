// The numbers of param groups, which schedulers and users write between steps: what each key must hold, and reading it.
// What is wrong with a value is said in Python, by torchclip/state/group_values.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "../python_access.h"
#include "../rule_table.h"
#include "reader.h"

namespace torchclip {

// A key of a param group and what it may hold.
struct Key {
  std::string name;
  size_t count;      // of numbers
  bool is_flag;      // true, false or None
  bool is_required;  // else it stands for 0 where it is missing
  double least;      // both included
  double most;

  bool admits(double number) const {
    return least <= number && number <= most && (!is_flag || number == 0 || number == 1);
  }
};

// From what Python hands over: tuples of these.
std::vector<Key> keys_from(PyObject* tuples);

// Hyperparameters that the pipeline reads, whatever the rule: the first keys.
enum PipelineHyperparameter : size_t { kLr, kWeightDecay, kDecoupled, kMaximize, kPipelineKeys };

// Of a group whose threshold is not steered.
constexpr double kNoTarget = -1.0;
// The factor on the threshold of a group, among its own numbers of state.
constexpr const char* kThresholdScale = "threshold_scale";

// One param group: its dict and the numbers read from it.
struct Group {
  Object dict;
  size_t parameters = 0;                // how many it has
  std::vector<double> pipeline;         // by PipelineHyperparameter
  std::vector<double> hyperparameters;  // lr, then the rule's own
  Object lr;                            // a tensor on the device, where steps are taken there; lr is NaN above then
  unsigned used_slots = 0;
  double target = kNoTarget;  // the share of zeros that its threshold is steered to
  Object clip;                // the group's own policy as the plan was configured for it; null where it has none
  Py_ssize_t keys = 0;        // of the dict, when they were last looked at
  std::vector<Object> seen;   // [keys]: the values that were read
  bool is_constant = false;   // only another value can change what they were read as

  bool has_target() const { return target != kNoTarget; }
  // Of a rule with a threshold: what makes it comes first among the rule's own hyperparameters.
  bool has_threshold() const { return hyperparameters[1] != 0; }
};

inline bool any_target(const std::vector<Group>& groups) {
  return std::any_of(groups.begin(), groups.end(), [](const Group& group) { return group.has_target(); });
}

class GroupReader {
 public:
  // The device and `reads_numbers` as in ParameterReader.
  GroupReader(const RuleEntry& rule, std::vector<Key> keys, DeviceType device, bool reads_numbers);

  // Brings the numbers of a group up to date. False when nothing was written there.
  bool read(Group& group, size_t index);

 private:
  bool is_as_seen(const Group& group) const;
  bool keep_lr(Group& group, PyObject* value) const;
  void check_host(const Key& key, PyObject* value) const;
  bool append(const Key& key, PyObject* value);

  const RuleEntry& rule_;
  std::vector<Key> keys_;
  std::vector<Object> names_;  // [keys]
  DeviceType device_;
  bool reads_numbers_;
  size_t target_key_ = 0;        // that of Group::target; [keys] where the rule has none
  size_t target_number_ = 0;     // among the numbers of all keys
  std::vector<double> numbers_;  // scratch of read()
};

}  // namespace torchclip
