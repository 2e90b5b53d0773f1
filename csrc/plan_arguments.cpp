#include "plan_arguments.h"

namespace torchclip {

Modifiers modifiers_from(PyObject* numbers) {
  Modifiers modifiers;
  for (const Object& item : items_of(Object::borrow(numbers).call("items").get())) {
    const std::vector<Object> pair = items_of(item.get());
    const std::string name = to_string(pair[0].get());
    if (!modifiers.set(name, to_double(pair[1].get()))) throw KeyError("csrc/modifiers.h has no field called " + name);
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

}  // namespace torchclip
