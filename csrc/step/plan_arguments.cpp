#include "plan_arguments.h"

namespace torchclip {

Modifiers modifiers_from(PyObject* numbers) {
  Modifiers modifiers;
  for (const Object& item : items_of(Object::borrow(numbers).call("items").get())) {
    const std::vector<Object> pair = items_of(item.get());
    const std::string name = to_string(pair[0].get());
    if (!modifiers.set(name, to_double(pair[1].get())))
      throw KeyError("csrc/step/modifier_fields.h has no field called " + name);
  }
  return modifiers;
}

std::vector<GroupClip> group_clips_from(PyObject* numbers) {
  return vector_of(numbers, [](PyObject* tuple) {
    const std::vector<Object> parts = items_of(tuple);
    if (parts.size() != 4) throw TypeError("a param group's policy is (unit, limit, smooth, nonfinite)");
    return GroupClip{to_double(parts[1].get()), static_cast<int32_t>(to_int(parts[0].get())),
                     to_bool(parts[2].get()) ? 1 : 0, static_cast<int32_t>(to_int(parts[3].get()))};
  });
}

Holding holding_from(const Arguments& arguments) {
  arguments.expect("hold", 6, 6);
  const int64_t form = to_int(arguments[0]);
  if (form < 0 || form > static_cast<int64_t>(Form::kMaster))
    throw ValueError("a parameter has no form " + std::to_string(form));
  const auto slot_of = [](PyObject* value) {
    const int64_t slot = to_int(value);
    if (slot < 0 || slot >= Holding::kSlotForms) throw ValueError("a slot has no form " + std::to_string(slot));
    return static_cast<Holding::Slot>(slot);
  };
  return {static_cast<Form>(form), vector_of(arguments[1], slot_of), to_int(arguments[2]),
          to_int(arguments[3]),    to_string(arguments[4]),          vector_of(arguments[5], to_string)};
}

double number_from(const Object& value, double otherwise) {
  if (value.is_none()) return otherwise;
  std::vector<double> numbers;
  if (!append_number(value.get(), numbers)) throw TypeError("a step takes a number or a tensor of one");
  return numbers.front();
}

}  // namespace torchclip
