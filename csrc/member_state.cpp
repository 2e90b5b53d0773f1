// The state of a parameter as the step finds it, and the memory of what the step reads and writes.
#include "members.h"
#include "tensor_access.h"

namespace torchclip {

// Reads slots and scalars from the state dict. Returns whether they are other tensors than before: not where the user
// keeps something of his own there, and has changed that. Other slots make no first step.
bool Members::bind_state(Member& member) {
  member.state_seen.remember(member.state.ptr());
  bool others = false;
  const auto read = [&](const py::object& key, at::Tensor& tensor) {
    PyObject* const found = lookup(member.state, key);
    const bool is_tensor = found != nullptr && THPVariable_Check(found);
    if (is_tensor ? THPVariable_Unpack(found).is_same(tensor) : !tensor.defined()) return;
    others = true;
    tensor = is_tensor ? THPVariable_Unpack(found) : at::Tensor();
  };
  // A matrix that has become a vector, or the reverse, keeps its sums elsewhere than before.
  const bool apart = sums_apart(member);
  if (apart) member.slots[kSumSlot].reset();
  if (!apart && member.extra != nullptr) {
    member.extra->sums.reset();
    member.extra->sum_is_double = false;
  }
  for (size_t i = 0; i < slot_keys_.size(); ++i)
    read(slot_keys_[i], i == kSumSlot && apart ? member.extra->sums : member.slots[i]);
  if (others) {
    member.fresh = false;
    member.replaced = true;
  }
  for (size_t i = 0; i < scalar_keys_.size(); ++i) read(scalar_keys_[i], member.scalars[i]);
  if (lookahead_) read(slow_key_, member.extra->slow);
  return others;
}

py::dict Members::slots_of(const Member& member) const {
  py::dict slots;
  for (size_t i = 0; i < slot_keys_.size(); ++i)
    if (member.slots[i].defined()) slots[slot_keys_[i]] = member.slots[i];
  return slots;
}

bool Members::has_memory(const Member& member) const {
  bool lacks = lacks_memory(member.parameter()) || lacks_memory(member.parameter().unsafeGetTensorImpl()->grad());
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
    lacks |= (member.used_slots >> slot & 1u) != 0 && lacks_memory(member.slots[slot]);
  for (size_t i = 0; i < scalar_keys_.size(); ++i) lacks |= lacks_memory(member.scalars[i]);
  if (const MemberExtra* const extra = member.extra.get(); extra != nullptr) {
    lacks |= extra->slow.defined() && lacks_memory(extra->slow);
    lacks |= extra->sums.defined() && lacks_memory(extra->sums);
  }
  return !lacks;
}

void Members::hold_gradients(std::vector<c10::Storage>& held) const {
  for (const Member& member : members_)
    if (member.can_step()) held.push_back(member.parameter().unsafeGetTensorImpl()->grad().storage());
}

void Members::hold_memory(std::vector<c10::Storage>& held) const {
  const auto hold = [&](const at::Tensor& tensor) {
    if (tensor.defined()) held.push_back(tensor.storage());
  };
  for (const Member& member : members_) {
    if (!member.active) continue;
    hold(member.parameter());
    hold(member.parameter().unsafeGetTensorImpl()->grad());
    for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
      if ((member.used_slots >> slot & 1u) != 0) hold(member.slots[slot]);
    for (size_t i = 0; i < scalar_keys_.size(); ++i) hold(member.scalars[i]);
    if (member.extra == nullptr) continue;
    hold(member.extra->slow);
    hold(member.extra->sums);
  }
}

}  // namespace torchclip
