#include "group_numbers.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "../step/device_id.h"
#include "tensor_info.h"

namespace torchclip {
namespace {

// A value that nobody can change without writing another one.
bool is_constant(PyObject* value) {
  if (value == nullptr || value == Py_None || is_python_number(value) || PyFloat_Check(value)) return true;
  if (!PyTuple_CheckExact(value)) return false;
  for (Py_ssize_t i = 0; i < PyTuple_Size(value); ++i)
    if (!is_constant(PyTuple_GetItem(value, i))) return false;
  return true;
}

std::vector<std::string> names_of(const std::vector<Key>& keys) {
  std::vector<std::string> names;
  for (const Key& key : keys) names.push_back(key.name);
  return names;
}

}  // namespace

std::vector<Key> keys_from(PyObject* tuples) {
  return vector_of(tuples, [](PyObject* tuple) {
    const std::vector<Object> parts = items_of(tuple);
    if (parts.size() != 6)
      throw TypeError("a key of a param group is (name, count, is_flag, is_required, least, most)");
    return Key{to_string(parts[0].get()), static_cast<size_t>(to_int(parts[1].get())),
               to_bool(parts[2].get()),   to_bool(parts[3].get()),
               to_double(parts[4].get()), to_double(parts[5].get())};
  });
}

GroupReader::GroupReader(const RuleEntry& rule, std::vector<Key> keys, DeviceType device, bool reads_numbers)
    : rule_(rule),
      keys_(std::move(keys)),
      names_(interned(names_of(keys_))),
      device_(device),
      reads_numbers_(reads_numbers) {
  // The numbers of the pipeline are followed by the rule's own, whatever keys those come from.
  size_t count = 0;
  for (size_t i = kPipelineKeys; i < keys_.size() && count < rule.hyperparameters.size(); ++i) count += keys_[i].count;
  if (count != rule.hyperparameters.size())
    throw ValueError(std::string("these are not the keys of the rule ") + rule.name + " in csrc/rules");
  while (target_key_ < keys_.size() && !(rule.counts_zeros && keys_[target_key_].name == "target_sparsity"))
    target_number_ += keys_[target_key_++].count;
}

bool GroupReader::is_as_seen(const Group& group) const {
  if (!group.is_constant) return false;
  for (size_t i = 0; i < names_.size(); ++i)
    if (lookup(group.dict, names_[i]) != group.seen[i].get()) return false;
  return true;
}

// A tensor lr that only the device reads.
bool GroupReader::keep_lr(Group& group, PyObject* value) const {
  if (reads_numbers_ || is_python_number(value) || !is_tensor(value)) return false;
  if (device_id_of_object(value).device.type != device_) return false;  // one on the host is read there
  TensorInfo lr;
  if (!reader().describe_object(value, /*writes=*/false, lr) || lr.numel != 1 || !holds_floats(lr))
    throw std::runtime_error("lr is " + description_of(value) +
                             ", where one float32 or float64 number is wanted: make it torch.tensor(lr, device=...)");
  group.lr = Object::borrow(value);
  return true;
}

// Reading a number from the device would wait for it in every step.
void GroupReader::check_host(const Key& key, PyObject* value) const {
  if (reads_numbers_ || is_python_number(value) || !is_tensor(value)) return;
  if (to_bool(Object::borrow(value).attribute("is_cpu").get())) return;
  throw std::runtime_error(key.name + " is " + description_of(value) +
                           ", and of a param group's numbers only lr may be one: make it a number, or a "
                           "tensor on the CPU");
}

// Appends what a key holds. False where that is not what it must be.
bool GroupReader::append(const Key& key, PyObject* value) {
  if (value == nullptr || (key.is_flag && value == Py_None)) {
    numbers_.resize(numbers_.size() + key.count, 0.0);
    return value != nullptr || !key.is_required;
  }
  check_host(key, value);
  const size_t begin = numbers_.size();
  if (!(key.count == 1 ? append_number(value, numbers_) : append_numbers(value, key.count, numbers_))) return false;
  return std::all_of(numbers_.begin() + static_cast<std::ptrdiff_t>(begin), numbers_.end(),
                     [&](double number) { return key.admits(number); });
}

bool GroupReader::read(Group& group, size_t index) {
  if (is_as_seen(group)) return false;
  group.is_constant = false;
  group.seen.resize(keys_.size());
  group.lr = Object();
  numbers_.clear();
  bool constant = true;
  for (size_t i = 0; i < keys_.size(); ++i) {
    // Held: reading a number may call Python, which may write another into the group.
    PyObject* const value = lookup(group.dict, names_[i]);
    if (group.seen[i].get() != value) group.seen[i] = Object::borrow(value);
    if (i == kLr && value != nullptr && keep_lr(group, value)) {
      numbers_.push_back(std::numeric_limits<double>::quiet_NaN());
    } else if (!append(keys_[i], value)) {
      throw ValueError("param group " + std::to_string(index) + " has no usable '" + keys_[i].name + "'");
    }
    constant = constant && is_constant(value);
  }
  const auto own = numbers_.begin() + kPipelineKeys;
  group.pipeline.assign(numbers_.begin(), own);
  group.hyperparameters.assign(1, numbers_.front());
  group.hyperparameters.insert(group.hyperparameters.end(), own,
                               own + static_cast<std::ptrdiff_t>(rule_.hyperparameters.size()));
  if (rule_.conflicts(group.hyperparameters.data()))
    throw ValueError("param group " + std::to_string(index) + " holds values that contradict one another");
  const bool is_steered = target_key_ < keys_.size() && static_cast<bool>(group.seen[target_key_]);
  group.target = is_steered ? numbers_[target_number_] : kNoTarget;
  group.is_constant = constant;
  return true;
}

}  // namespace torchclip
