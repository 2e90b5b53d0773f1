// For classes of this extension that hold Python objects.
#pragma once

#include "python_access.h"

namespace torchclip {

inline bool is_constructed(PyObject* self) {
  return reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder().holder_constructed();
}

// What holds an optimizer's parameters and state may be referred to by them in turn, through a hook say: the garbage
// collector must see through it. `Holder` has traverse() and clear().
template <class Holder>
void collect_garbage_of(PyHeapTypeObject* heap_type) {
  PyTypeObject* type = &heap_type->ht_type;
  type->tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!is_constructed(self)) return 0;
    return py::cast<Holder&>(py::handle(self)).traverse(visit, arg);
  };
  type->tp_clear = [](PyObject* self) {
    if (is_constructed(self)) py::cast<Holder&>(py::handle(self)).clear();
    return 0;
  };
}

}  // namespace torchclip
