// The state of a parameter as the step finds it, and the memory of what the step reads and writes.
#include "parameter_reader.h"

namespace torchclip {

// Reads slots and scalars from the state dict. Returns whether they are other tensors than before: not where the user
// keeps something of his own there, and has changed that. Other slots make no first step.
bool ParameterReader::bind_state(ParameterRecord& record) {
  reader().remember_dict(record.state_seen, record.state.get());
  bool others = false;
  const auto read = [&](const Object& key, Tensor& tensor) {
    PyObject* const found = lookup(record.state, key);
    const bool holds_tensor = found != nullptr && is_tensor(found);
    if (holds_tensor ? tensor && reader().is_same(tensor.get(), found) : !tensor) return;
    others = true;
    tensor = holds_tensor ? Tensor::of(found) : Tensor();
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
  for (size_t i = 0; i < beside_keys_.size(); ++i)
    if (beside_keys_[i]) read(beside_keys_[i], record.extra->codecs.beside[i]);
  if (lookahead_) read(averages_ ? ema_key_ : slow_key_, record.extra->slow);
  return others;
}

Object ParameterReader::slots_of(const ParameterRecord& record) const {
  const Object slots = make_dict();
  const auto put = [&](const Object& key, const Tensor& tensor) {
    if (!tensor) return;
    const Object slot = Object::take(reader().object_of(tensor.get()));
    if (PyDict_SetItem(slots.get(), key.get(), slot.get()) != 0) throw PythonError();
  };
  for (size_t i = 0; i < slot_keys_.size(); ++i) put(slot_keys_[i], record.slots[i]);
  if (record.extra != nullptr && holding_.has_masters()) put(beside_keys_[0], record.extra->codecs.beside[0]);
  return slots;
}

void ParameterReader::hold_gradients(HeldMemory& held) const {
  for (const ParameterRecord& record : records_)
    if (record.can_step()) reader().hold_gradient(record.object.get(), held.all());
}

void ParameterReader::hold_memory(HeldMemory& held) const {
  const auto hold = [&](const Tensor& tensor) {
    if (tensor) reader().hold(tensor.get(), held.all());
  };
  for (const ParameterRecord& record : records_) {
    if (!record.active) continue;
    hold(Tensor::of(record.object.get()));
    reader().hold_gradient(record.object.get(), held.all());
    for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
      if ((record.used_slots >> slot & 1u) != 0) hold(record.slots[slot]);
    for (size_t i = 0; i < scalar_keys_.size(); ++i) hold(record.scalars[i]);
    if (record.extra == nullptr) continue;
    hold(record.extra->slow);
    hold(record.extra->sums);
    for (const Tensor& kept : record.extra->codecs.beside) hold(kept);
  }
}

}  // namespace torchclip
