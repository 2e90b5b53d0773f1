// The state of a parameter as the step finds it, and the memory of what the step reads and writes.
#include "parameter_reader.h"
#include "tensor_access.h"

namespace torchclip {

// Reads slots and scalars from the state dict. Returns whether they are other tensors than before: not where the user
// keeps something of his own there, and has changed that. Other slots make no first step.
bool ParameterReader::bind_state(ParameterRecord& record) {
  record.state_seen.remember(record.state.ptr());
  bool others = false;
  const auto read = [&](const py::object& key, at::Tensor& tensor) {
    PyObject* const found = lookup(record.state, key);
    const bool is_tensor = found != nullptr && THPVariable_Check(found);
    if (is_tensor ? THPVariable_Unpack(found).is_same(tensor) : !tensor.defined()) return;
    others = true;
    tensor = is_tensor ? THPVariable_Unpack(found) : at::Tensor();
  };
  // A matrix that has become a vector, or the reverse, keeps its sums elsewhere than before.
  const bool apart = sums_apart(record);
  if (apart) record.slots[kSumSlot].reset();
  if (!apart && record.extra != nullptr) {
    record.extra->sums.reset();
    record.extra->sum_is_double = false;
  }
  for (size_t i = 0; i < slot_keys_.size(); ++i)
    read(slot_keys_[i], i == kSumSlot && apart ? record.extra->sums : record.slots[i]);
  if (others) {
    record.fresh = false;
    record.replaced = true;
  }
  for (size_t i = 0; i < scalar_keys_.size(); ++i) read(scalar_keys_[i], record.scalars[i]);
  if (lookahead_) read(slow_key_, record.extra->slow);
  return others;
}

py::dict ParameterReader::slots_of(const ParameterRecord& record) const {
  py::dict slots;
  for (size_t i = 0; i < slot_keys_.size(); ++i)
    if (record.slots[i].defined()) slots[slot_keys_[i]] = record.slots[i];
  return slots;
}

bool ParameterReader::has_memory(const ParameterRecord& record) const {
  bool lacks = lacks_memory(record.parameter()) || lacks_memory(record.parameter().unsafeGetTensorImpl()->grad());
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
    lacks |= (record.used_slots >> slot & 1u) != 0 && lacks_memory(record.slots[slot]);
  for (size_t i = 0; i < scalar_keys_.size(); ++i) lacks |= lacks_memory(record.scalars[i]);
  if (const RecordExtra* const extra = record.extra.get(); extra != nullptr) {
    lacks |= extra->slow.defined() && lacks_memory(extra->slow);
    lacks |= extra->sums.defined() && lacks_memory(extra->sums);
  }
  return !lacks;
}

void ParameterReader::hold_gradients(std::vector<c10::Storage>& held) const {
  for (const ParameterRecord& record : records_)
    if (record.can_step()) held.push_back(record.parameter().unsafeGetTensorImpl()->grad().storage());
}

void ParameterReader::hold_memory(std::vector<c10::Storage>& held) const {
  const auto hold = [&](const at::Tensor& tensor) {
    if (tensor.defined()) held.push_back(tensor.storage());
  };
  for (const ParameterRecord& record : records_) {
    if (!record.active) continue;
    hold(record.parameter());
    hold(record.parameter().unsafeGetTensorImpl()->grad());
    for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
      if ((record.used_slots >> slot & 1u) != 0) hold(record.slots[slot]);
    for (size_t i = 0; i < scalar_keys_.size(); ++i) hold(record.scalars[i]);
    if (record.extra == nullptr) continue;
    hold(record.extra->slow);
    hold(record.extra->sums);
  }
}

}  // namespace torchclip
