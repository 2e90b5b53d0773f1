#include "parameter_reader.h"

#include <algorithm>
#include <limits>
#include <unordered_map>

#include "cpu/parallel.h"
#include "tensor_access.h"

namespace torchclip {
namespace {

// Beside a GPU, for each thread that helps.
constexpr int64_t kItemsToWakeFor = 512;

// A list or a tuple.
bool is_list(PyObject* value) { return PyList_Check(value) || PyTuple_Check(value); }
size_t list_size(PyObject* list) { return static_cast<size_t>(PySequence_Fast_GET_SIZE(list)); }
PyObject* list_item(PyObject* list, size_t index) {
  return PySequence_Fast_GET_ITEM(list, static_cast<Py_ssize_t>(index));
}

}  // namespace

ParameterReader::ParameterReader(const RuleEntry& rule, const Names& names, Sums sums, c10::DeviceType device,
                                 bool reads_numbers)
    : group_reader_(rule, names.keys, device, reads_numbers),
      slot_keys_(interned(names.slots)),
      scalar_keys_(interned(names.scalars)),
      argument_keys_(interned({"step_size", "extensions", "seed", "skip", "backend", "scope"})),
      slow_key_(interned({"slow"}).front()),
      clip_key_(interned({"clip"}).front()),
      used_slots_(rule.used_slots),
      sums_(sums),
      device_(device),
      reads_numbers_(reads_numbers),
      takes_complex_(rule.takes_complex()) {}

// Whether the sums of a record are not elements like its own.
bool ParameterReader::sums_apart(const ParameterRecord& record) const {
  return sums_ == Sums::kTensor || (sums_ == Sums::kRow && record.parameter().dim() >= 2);
}

unsigned ParameterReader::used_slots_of(const ParameterRecord& record) const {
  const unsigned used = groups_[static_cast<size_t>(record.group)].used_slots;
  return sums_ == Sums::kRow && !sums_apart(record) ? used | 1u << kSumSlot : used;
}

bool ParameterReader::structure_matches(const py::object& param_groups) const {
  if (!is_list(param_groups.ptr()) || list_size(param_groups.ptr()) != groups_.size()) return false;
  static PyObject* const params_key = PyUnicode_InternFromString("params");
  size_t position = 0;
  for (size_t index = 0; index < groups_.size(); ++index) {
    PyObject* dict = list_item(param_groups.ptr(), index);
    if (dict != groups_[index].dict.ptr()) return false;
    PyObject* params = PyDict_GetItemWithError(dict, params_key);
    if (params == nullptr || !is_list(params)) return false;
    const size_t count = list_size(params);
    PyObject* const* const items = PySequence_Fast_ITEMS(params);
    if (position + count > records_.size()) return false;
    for (size_t i = 0; i < count; ++i, ++position) {
      const ParameterRecord& record = records_[position];
      if (record.object.ptr() != items[i] || record.group != static_cast<int32_t>(index)) return false;
    }
  }
  return position == records_.size();
}

// Nothing is taken of a structure in which something is not what it must be. What is known of a parameter stays with
// it, wherever it now stands.
void ParameterReader::read_structure(const py::object& param_groups) {
  if (!is_list(param_groups.ptr())) throw py::type_error("param_groups must be a list of dicts");
  std::vector<Group> groups;
  std::vector<std::pair<py::object, int32_t>> parameters;  // with the group of each
  for (size_t index = 0; index < list_size(param_groups.ptr()); ++index) {
    const std::string name = "param group " + std::to_string(index);
    Group group;
    group.dict = py::reinterpret_borrow<py::object>(list_item(param_groups.ptr(), index));
    if (!PyDict_Check(group.dict.ptr())) throw py::type_error(name + " must be a dict");
    const py::object params = group.dict["params"];
    if (PyIter_Check(params.ptr()) || THPVariable_Check(params.ptr()))
      throw py::type_error(name + " must hold a list of parameters under 'params'");
    for (const py::handle parameter : py::list(params)) {
      if (!THPVariable_Check(parameter.ptr())) throw py::type_error(name + " holds parameters that are no Tensors");
      parameters.emplace_back(py::reinterpret_borrow<py::object>(parameter), static_cast<int32_t>(index));
    }
    groups.push_back(std::move(group));
  }
  // Which policy is whose may be another now: groups_changed() says so until configure().
  const auto has_clip = [](const Group& group) { return static_cast<bool>(group.clip); };
  const bool had_clips = own_clips_ != 0 || std::any_of(groups_.begin(), groups_.end(), has_clip);
  std::unordered_map<PyObject*, ParameterRecord> known;
  for (ParameterRecord& record : records_) known.try_emplace(record.object.ptr(), std::move(record));
  clear();
  for (auto& [parameter, group] : parameters) {
    ParameterRecord record;
    if (const auto found = known.find(parameter.ptr()); found != known.end()) {
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
    group.clip = clip == nullptr ? py::object() : py::reinterpret_borrow<py::object>(clip);
    group.keys = PyDict_GET_SIZE(group.dict.ptr());
  }
}

// Python knows what the values mean: here it is only seen that they are others. Assigning to a key that is there
// already, other than clip, is not.
bool ParameterReader::groups_changed() {
  if (own_clips_ != 0 && own_clips_ != groups_.size()) return true;
  for (Group& group : groups_) {
    if (lookup(group.dict, clip_key_) != group.clip.ptr()) return true;
    const Py_ssize_t keys = PyDict_GET_SIZE(group.dict.ptr());
    if (keys == group.keys) continue;
    const auto has = [&group](const py::object& key) { return lookup(group.dict, key) != nullptr; };
    if (std::any_of(argument_keys_.begin(), argument_keys_.end(), has)) return true;
    group.keys = keys;
  }
  return false;
}

void ParameterReader::read_groups() {
  for (size_t index = 0; index < groups_.size(); ++index) {
    Group& group = groups_[index];
    if (!group_reader_.read(group, index)) continue;
    const unsigned used = used_slots_(group.hyperparameters.data());
    changed_ |= used != group.used_slots;
    group.used_slots = used;
  }
}

// Which dict belongs to which parameter. Hashing a tensor calls Python, so the values alone are compared, in order.
void ParameterReader::bind_states(const py::dict& state) {
  Py_ssize_t cursor = 0;
  PyObject *key = nullptr, *value = nullptr;
  size_t count = 0;
  bool same = true;
  while (same && PyDict_Next(state.ptr(), &cursor, &key, &value) != 0) {
    same = count < state_dicts_.size() && state_dicts_[count] == value;
    ++count;
  }
  if (same && count == state_dicts_.size()) return;
  state_dicts_.assign(1, nullptr);  // equal to no state: an exception lets the next step look again
  std::vector<PyObject*> dicts;
  cursor = 0;
  while (PyDict_Next(state.ptr(), &cursor, &key, &value) != 0) dicts.push_back(value);
  for (ParameterRecord& record : records_) {
    PyObject* dict = lookup(state, record.object);
    TORCH_CHECK_TYPE(dict == nullptr || PyDict_Check(dict), "the state of parameter ", &record - records_.data(),
                     " is ", Py_TYPE(dict)->tp_name, ", and a dict is wanted");
    record.state = dict == nullptr ? py::object() : py::reinterpret_borrow<py::object>(dict);
    record.state_seen = DictSeen();
  }
  state_dicts_ = std::move(dicts);
}

// Brings a record up to date when nothing but addresses changed since it was last found to be served; false otherwise.
// Runs without the GIL's thread, which waits meanwhile: it reads Python objects and neither calls Python nor changes a
// reference count.
bool ParameterReader::refresh_unchanged(ParameterRecord& record) const {
  const at::Tensor& parameter = record.parameter();
  const at::Tensor& gradient = parameter.unsafeGetTensorImpl()->grad();
  if (record.active != gradient.defined()) return false;
  if (!record.active) return true;
  const unsigned used = used_slots_of(record);
  if (needs_state(used) && (!record.state || record.state_seen.changed(record.state.ptr()))) return false;
  if (fingerprint_of(record, used, gradient) != record.fingerprint) return false;
  record.last_gradient = gradient.unsafeGetTensorImpl();
  bool missing = false;
  record.operands[kParameter] = first_element(parameter, missing);
  record.operands[kGradient] = const_cast<void*>(first_element_read(gradient, missing));
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
    record.operands[kState0 + slot] = (used >> slot & 1u) != 0 ? first_element(record.slots[slot], missing) : nullptr;
  for (size_t i = 0; i < scalar_keys_.size(); ++i) record.scalar_values[i] = first_element(record.scalars[i], missing);
  if (RecordExtra* const extra = record.extra.get(); extra != nullptr) {
    if (extra->slow.defined()) extra->slow_values = first_element(extra->slow, missing);
    if (extra->sums.defined()) extra->sum_values = first_element(extra->sums, missing);
  }
  return !missing || has_memory(record);
}

uint64_t ParameterReader::fingerprint_of(const ParameterRecord& record, unsigned used,
                                         const at::Tensor& gradient) const {
  Fingerprint fingerprint;
  fingerprint.add(used);
  fingerprint.add(record.parameter());
  fingerprint.add(gradient);
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
    if ((used >> slot & 1u) != 0 && record.slots[slot].defined()) fingerprint.add(record.slots[slot]);
  if (record.extra != nullptr && record.extra->slow.defined()) fingerprint.add(record.extra->slow);
  if (record.extra != nullptr && record.extra->sums.defined()) fingerprint.add(record.extra->sums);
  return fingerprint.value();
}

// Finds out what changed. Returns false when the parameter cannot step as it is.
bool ParameterReader::refresh_changed(ParameterRecord& record) {
  const at::Tensor& gradient = record.parameter().unsafeGetTensorImpl()->grad();
  const bool was_active = std::exchange(record.active, gradient.defined());
  const uint64_t seen = std::exchange(record.fingerprint, 0);
  if (record.active != was_active) changed_ = true;
  if (!record.active) return true;
  record.used_slots = used_slots_of(record);
  if (has_extra() && record.extra == nullptr) record.extra = std::make_unique<RecordExtra>();
  bool same = record.active == was_active && seen != 0;
  if (needs_state(record.used_slots)) {
    if (!record.state) {
      changed_ = record.replaced = true;
      record.fresh = false;
      for (at::Tensor& slot : record.slots) slot.reset();
      return false;
    }
    same &= !bind_state(record);
  }
  if (!same || fingerprint_of(record, record.used_slots, gradient) != seen) {
    changed_ = true;
    if (!can_serve(record, gradient)) return false;
  }
  record.fingerprint = fingerprint_of(record, record.used_slots, gradient);
  if (refresh_unchanged(record)) return true;
  changed_ = true;
  record.fingerprint = 0;
  return false;
}

// A thousand small tensors are ten thousand objects scattered over the heap, and after a pass over their elements each
// of them is a cache miss. Their addresses are known ahead: first the objects, then what those point to.
void ParameterReader::prefetch(size_t position) const {
  constexpr size_t kFar = 16, kNear = 8;
  const auto prefetch_tensor = [](const void* impl) {  // two cache lines hold what is read of a TensorImpl
    __builtin_prefetch(impl);
    __builtin_prefetch(static_cast<const char*>(impl) + 64);
  };
  if (position + kFar < records_.size()) {
    const ParameterRecord& record = records_[position + kFar];
    __builtin_prefetch(record.object.ptr());
    __builtin_prefetch(record.state.ptr());
    prefetch_tensor(record.last_gradient);
    for (size_t slot = 0; slot < slot_keys_.size(); ++slot) prefetch_tensor(record.slots[slot].unsafeGetTensorImpl());
    for (size_t i = 0; i < scalar_keys_.size(); ++i) prefetch_tensor(record.scalars[i].unsafeGetTensorImpl());
  }
  if (position + kNear < records_.size()) {
    const ParameterRecord& record = records_[position + kNear];
    prefetch_tensor(record.parameter().unsafeGetTensorImpl());
    const auto prefetch_storage = [](const at::Tensor& tensor) {
      if (tensor.defined()) __builtin_prefetch(tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
    };
    for (size_t slot = 0; slot < slot_keys_.size(); ++slot) prefetch_storage(record.slots[slot]);
    for (size_t i = 0; i < scalar_keys_.size(); ++i) prefetch_storage(record.scalars[i]);
  }
}

std::vector<int64_t> ParameterReader::refresh(const py::object& param_groups, const py::dict& state) {
  if (!structure_matches(param_groups)) read_structure(param_groups);
  if (groups_changed()) return {kGroupsChanged};
  read_groups();
  bind_states(state);
  // A thousand parameters are many cache misses, which two threads wait for in half the time. On the CPU the passes
  // wake all of them anyway; beside a GPU they sleep, and to wake sixteen takes longer than hundreds of parameters do.
  const int64_t count = static_cast<int64_t>(records_.size());
  const int64_t threads = reads_numbers_ ? std::numeric_limits<int>::max() : 1 + count / kItemsToWakeFor;
  unchanged_.resize(records_.size());
  cpu::for_each_item(
      count,
      [this](int64_t position) {
        prefetch(static_cast<size_t>(position));
        unchanged_[static_cast<size_t>(position)] = refresh_unchanged(records_[static_cast<size_t>(position)]);
      },
      threads);
  std::vector<int64_t> attention;
  for (int64_t position = 0; position < count; ++position)
    if (unchanged_[static_cast<size_t>(position)] == 0 && !refresh_changed(records_[static_cast<size_t>(position)]))
      attention.push_back(position);
  return attention;
}

int ParameterReader::traverse(visitproc visit, void* arg) const {
  for (const Group& group : groups_) {
    Py_VISIT(group.dict.ptr());
    Py_VISIT(group.clip.ptr());
  }
  for (const ParameterRecord& record : records_) {
    Py_VISIT(record.object.ptr());
    Py_VISIT(record.state.ptr());
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
