#include "parameter_reader.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_map>

#include "../step/device_id.h"
#include "tensor_info.h"

namespace torchclip {
namespace {

// A list or a tuple.
bool is_list(PyObject* value) { return PyList_Check(value) || PyTuple_Check(value); }
size_t list_size(PyObject* list) {
  return static_cast<size_t>(PyList_Check(list) ? PyList_Size(list) : PyTuple_Size(list));
}
PyObject* list_item(PyObject* list, size_t index) {
  const Py_ssize_t place = static_cast<Py_ssize_t>(index);
  return PyList_Check(list) ? PyList_GetItem(list, place) : PyTuple_GetItem(list, place);
}

}  // namespace

ParameterReader::ParameterReader(const RuleEntry& rule, const Names& names, Sums sums, DeviceType device,
                                 bool reads_numbers)
    : group_reader_(rule, names.keys, device, reads_numbers),
      slot_keys_(interned(names.slots)),
      scalar_keys_(interned(names.scalars)),
      argument_keys_(interned({"step_size", "extensions", "precision", "seed", "skip", "backend", "scope"})),
      slow_key_(interned({"slow"}).front()),
      ema_key_(interned({"ema"}).front()),
      clip_key_(interned({"clip"}).front()),
      params_key_(interned({"params"}).front()),
      differentiable_key_(interned({"differentiable"}).front()),
      used_slots_(rule.used_slots),
      sums_(sums),
      device_(device),
      reads_numbers_(reads_numbers),
      takes_complex_(rule.takes_complex()) {}

void ParameterReader::hold(Holding holding) {
  holding_ = std::move(holding);
  beside_keys_.clear();
  beside_keys_.push_back(holding_.keeps_beside() ? interned({holding_.beside}).front() : Object());
  for (size_t slot = 0; slot < holding_.absmax.size(); ++slot)
    beside_keys_.push_back(holding_.has_blocks(slot) ? interned({holding_.absmax[slot]}).front() : Object());
  for (ParameterRecord& record : records_) record.fingerprint = 0;
  changed_ = true;
}

void ParameterReader::keep_wide(std::vector<char> wide) {
  holding_.wide = std::move(wide);
  for (ParameterRecord& record : records_) record.fingerprint = 0;
  changed_ = true;
}

// Whether the sums of a record are not elements like its own.
bool ParameterReader::sums_apart(const ParameterRecord& record) const {
  return sums_ == Sums::kTensor || (sums_ == Sums::kRow && record.dim >= 2);
}

bool ParameterReader::structure_matches(const Object& param_groups) const {
  if (!is_list(param_groups.get()) || list_size(param_groups.get()) != groups_.size()) return false;
  size_t position = 0;
  for (size_t index = 0; index < groups_.size(); ++index) {
    PyObject* dict = list_item(param_groups.get(), index);
    if (dict != groups_[index].dict.get()) return false;
    PyObject* params = PyDict_GetItemWithError(dict, params_key_.get());
    if (params == nullptr || !is_list(params)) return false;
    const size_t count = list_size(params);
    if (count != groups_[index].parameters || position + count > records_.size()) return false;
    if (!reader().holds_parameters(params, records_.data() + position, count)) return false;
    position += count;
  }
  return position == records_.size();
}

// Nothing is taken of a structure in which something is not what it must be. What is known of a parameter stays with
// it, wherever it now stands.
void ParameterReader::read_structure(const Object& param_groups) {
  if (!is_list(param_groups.get())) throw TypeError("param_groups must be a list of dicts");
  std::vector<Group> groups;
  std::vector<std::pair<Object, int32_t>> parameters;  // with the group of each
  for (size_t index = 0; index < list_size(param_groups.get()); ++index) {
    const std::string name = "param group " + std::to_string(index);
    Group group;
    group.dict = Object::borrow(list_item(param_groups.get(), index));
    if (!PyDict_Check(group.dict.get())) throw TypeError(name + " must be a dict");
    const Object params = Object::take(PyObject_GetItem(group.dict.get(), params_key_.get()));
    if (PyIter_Check(params.get()) || is_tensor(params.get()))
      throw TypeError(name + " must hold a list of parameters under 'params'");
    for (Object& parameter : items_of(params.get())) {
      if (!is_tensor(parameter.get())) throw TypeError(name + " holds parameters that are no Tensors");
      parameters.emplace_back(std::move(parameter), static_cast<int32_t>(index));
      ++group.parameters;
    }
    groups.push_back(std::move(group));
  }
  // Which policy is whose may be another now: groups_changed() says so until configure().
  const auto has_clip = [](const Group& group) { return static_cast<bool>(group.clip); };
  const bool had_clips = own_clips_ != 0 || std::any_of(groups_.begin(), groups_.end(), has_clip);
  std::unordered_map<PyObject*, ParameterRecord> known;
  for (ParameterRecord& record : records_) known.try_emplace(record.object.get(), std::move(record));
  clear();
  for (auto& [parameter, group] : parameters) {
    ParameterRecord record;
    if (const auto found = known.find(parameter.get()); found != known.end()) {
      record = std::move(found->second);
      known.erase(found);
      record.fingerprint = 0;
    } else {
      record.object = std::move(parameter);
    }
    record.group = group;
    records_.push_back(std::move(record));
  }
  groups_ = std::move(groups);
  if (had_clips) own_clips_ = std::numeric_limits<size_t>::max();
}

void ParameterReader::remember_groups(size_t own_clips) {
  own_clips_ = own_clips;
  for (Group& group : groups_) {
    PyObject* const clip = lookup(group.dict, clip_key_);
    group.clip = clip == nullptr ? Object() : Object::borrow(clip);
    group.keys = PyDict_Size(group.dict.get());
  }
}

// Python knows what the values mean: here it is only seen that they are others. Assigning to a key that is there
// already, other than clip, is not.
bool ParameterReader::groups_changed() {
  if (own_clips_ != 0 && own_clips_ != groups_.size()) return true;
  for (Group& group : groups_) {
    if (lookup(group.dict, clip_key_) != group.clip.get()) return true;
    const Py_ssize_t keys = PyDict_Size(group.dict.get());
    if (keys == group.keys) continue;
    const auto has = [&group](const Object& key) { return lookup(group.dict, key) != nullptr; };
    if (std::any_of(argument_keys_.begin(), argument_keys_.end(), has)) return true;
    group.keys = keys;
  }
  return false;
}

// Whether a param group says differentiable=True, which a precision policy refuses.
bool ParameterReader::differentiates() const {
  return std::any_of(groups_.begin(), groups_.end(), [this](const Group& group) {
    PyObject* const flag = lookup(group.dict, differentiable_key_);
    return flag != nullptr && flag != Py_False && flag != Py_None;
  });
}

void ParameterReader::read_groups() {
  for (size_t index = 0; index < groups_.size(); ++index) {
    Group& group = groups_[index];
    if (!group_reader_.read(group, index)) continue;
    const unsigned used = used_slots_(group.hyperparameters.data());
    changed_ |= used != group.used_slots;
    group.used_slots = used;
  }
  used_of_groups_.clear();
  for (const Group& group : groups_) used_of_groups_.push_back(group.used_slots);
}

// Which dict belongs to which parameter. Hashing a tensor calls Python, so the values alone are compared, in order.
void ParameterReader::bind_states(const Object& state) {
  Py_ssize_t cursor = 0;
  PyObject *key = nullptr, *value = nullptr;
  size_t count = 0;
  bool same = true;
  while (same && PyDict_Next(state.get(), &cursor, &key, &value) != 0) {
    same = count < state_dicts_.size() && state_dicts_[count] == value;
    ++count;
  }
  if (same && count == state_dicts_.size()) return;
  state_dicts_.assign(1, nullptr);  // equal to no state: an exception lets the next step look again
  std::vector<PyObject*> dicts;
  cursor = 0;
  while (PyDict_Next(state.get(), &cursor, &key, &value) != 0) dicts.push_back(value);
  for (ParameterRecord& record : records_) {
    PyObject* dict = lookup(state, record.object);
    if (dict != nullptr && !PyDict_Check(dict))
      throw TypeError("the state of parameter " + std::to_string(&record - records_.data()) + " is " + type_name(dict) +
                      ", and a dict is wanted");
    record.state = dict == nullptr ? Object() : Object::borrow(dict);
    record.state_seen = DictSeen();
  }
  state_dicts_ = std::move(dicts);
}

RefreshContext ParameterReader::context() const {
  RefreshContext context;
  context.used_slots = used_of_groups_.data();
  context.slots = slot_keys_.size();
  context.scalars = scalar_keys_.size();
  context.needs_state = needs_more_state();
  context.number_of = emulated_number();
  return context;
}

// Finds out what changed. Returns false when the parameter cannot step as it is.
bool ParameterReader::refresh_changed(ParameterRecord& record, const RefreshContext& context) {
  const Tensor gradient(reader().gradient_of(record.object.get()));
  const bool has_gradient = static_cast<bool>(gradient), was_active = std::exchange(record.active, has_gradient);
  const uint64_t seen = std::exchange(record.fingerprint, 0);
  if (record.active != was_active) changed_ = true;
  if (!record.active) return true;
  TensorInfo parameter;
  record.dim = reader().describe_object(record.object.get(), /*writes=*/false, parameter) ? parameter.dim : 0;
  record.own_slots = sums_ == Sums::kRow && !sums_apart(record) ? uint8_t{1} << kSumSlot : uint8_t{0};
  record.used_slots = used_of_groups_[static_cast<size_t>(record.group)] | record.own_slots;
  if (has_extra() && record.extra == nullptr) record.extra = std::make_unique<RecordExtra>();
  bool same = record.active == was_active && seen != 0;
  if (record.used_slots != 0 || needs_more_state()) {
    if (!record.state) {
      changed_ = record.replaced = true;
      record.fresh = false;
      for (Tensor& slot : record.slots) slot.reset();
      return false;
    }
    same &= !bind_state(record);
  }
  if (!same || reader().fingerprint(record, record.used_slots, context) != seen) {
    changed_ = true;
    if (!can_serve(record, gradient)) return false;
  }
  record.fingerprint = reader().fingerprint(record, record.used_slots, context);
  uint8_t is_current = 0;
  reader().refresh(&record, 0, 1, context, &is_current);
  if (is_current != 0) return true;
  changed_ = true;
  record.fingerprint = 0;
  return false;
}

std::vector<int64_t> ParameterReader::refresh(const Object& param_groups, const Object& state) {
  if (!structure_matches(param_groups)) read_structure(param_groups);
  if (groups_changed()) return {kGroupsChanged};
  read_groups();
  bind_states(state);
  const RefreshContext context = this->context();
  unchanged_.resize(records_.size());
  in_shares(static_cast<int64_t>(records_.size()), [&](int64_t begin, int64_t end) {
    reader().refresh(records_.data(), begin, end, context, unchanged_.data());
  });
  const bool refuses = holding_.is_given() && differentiates();
  std::vector<int64_t> attention;
  if (!refuses && std::memchr(unchanged_.data(), 0, unchanged_.size()) == nullptr) return attention;
  for (size_t position = 0; position < unchanged_.size(); ++position) {
    const bool served = unchanged_[position] != 0 || refresh_changed(records_[position], context);
    if (!served || (refuses && records_[position].active)) attention.push_back(static_cast<int64_t>(position));
  }
  return attention;
}

int ParameterReader::traverse(visitproc visit, void* arg) const {
  for (const Group& group : groups_) {
    Py_VISIT(group.dict.get());
    Py_VISIT(group.clip.get());
  }
  for (const ParameterRecord& record : records_) {
    Py_VISIT(record.object.get());
    Py_VISIT(record.state.get());
    const auto visit_tensor = [&](const Tensor& tensor) {
      return tensor ? reader().visit(tensor.get(), visit, arg) : 0;
    };
    for (const Tensor& slot : record.slots)
      if (const int result = visit_tensor(slot); result != 0) return result;
    for (const Tensor& scalar : record.scalars)
      if (const int result = visit_tensor(scalar); result != 0) return result;
    if (record.extra == nullptr) continue;
    for (const Tensor& kept : record.extra->codecs.beside)
      if (const int result = visit_tensor(kept); result != 0) return result;
  }
  return 0;
}

// What is let go of may call Python, which may come back here: it finds nothing any more.
void ParameterReader::clear() {
  changed_ = true;
  state_dicts_.assign(1, nullptr);  // equal to no state, an empty one included
  const auto records = std::exchange(records_, {});
  const auto groups = std::exchange(groups_, {});
}

}  // namespace torchclip
