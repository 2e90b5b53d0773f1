// Where DTensors keep what they hold, for torch.cpp alone.
#pragma once

#include <Python.h>
#include <structmember.h>

#include <algorithm>
#include <memory>

#include "torch_tensors.h"

namespace torchclip::dtensors {

struct GiveUp {
  void operator()(PyObject* object) const { Py_DECREF(object); }
};
using Owned = std::unique_ptr<PyObject, GiveUp>;

// An attribute of DTensor, and where an object of that very class keeps it, in bytes; 0 where it has no slot.
struct Attribute {
  PyObject* name = nullptr;
  Py_ssize_t offset = 0;
};

struct Layout {
  PyTypeObject* type = nullptr;
  Attribute part, spec;
  PyObject *mesh = nullptr, *placements = nullptr;  // what a spec calls them

  // Borrowed; null where an object does not keep it in a slot.
  PyObject* held(PyObject* object, const Attribute& attribute) const {
    if (attribute.offset == 0 || Py_TYPE(object) != type) return nullptr;
    return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + attribute.offset);
  }
  // Null, with Python's error set, where there is none.
  Owned of(PyObject* object, const Attribute& attribute) const {
    PyObject* const held = this->held(object, attribute);
    Py_XINCREF(held);
    return Owned(held != nullptr ? held : PyObject_GetAttr(object, attribute.name));
  }
};

inline PyObject* wrong_lengths() {
  PyErr_SetString(PyExc_ValueError, "the lists are not of the lengths that they must be");
  return nullptr;
}

inline Attribute attribute_of(PyObject* type, const char* name) {
  Attribute attribute{PyUnicode_InternFromString(name)};
  const Owned found(PyObject_GetAttrString(type, name));
  if (found == nullptr) PyErr_Clear();
  if (found == nullptr || Py_TYPE(found.get()) != &PyMemberDescr_Type) return attribute;
  const PyMemberDef* const member = reinterpret_cast<PyMemberDescrObject*>(found.get())->d_member;
  if (member->type == T_OBJECT_EX) attribute.offset = member->offset;
  return attribute;
}

// Null, with Python's error set, where there is no such class.
inline const Layout* layout() {
  static Layout known;
  if (known.type != nullptr) return &known;
  const Owned module(PyImport_ImportModule("torch.distributed.tensor"));
  PyObject* const type = module == nullptr ? nullptr : PyObject_GetAttrString(module.get(), "DTensor");
  if (type == nullptr) return nullptr;
  known = {reinterpret_cast<PyTypeObject*>(type), attribute_of(type, "_local_tensor"), attribute_of(type, "_spec"),
           PyUnicode_InternFromString("mesh"), PyUnicode_InternFromString("placements")};
  return &known;
}

inline at::TensorImpl* impl_of(PyObject* tensor) { return tensor_of(tensor).unsafeGetTensorImpl(); }
inline at::Tensor tensor_at(at::TensorImpl* impl) {
  return at::Tensor(c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>::reclaim_copy(impl));
}

// Of no subclass.
inline bool is_plain(PyObject* tensor) { return reinterpret_cast<PyObject*>(Py_TYPE(tensor)) == THPVariableClass; }

// The objects are scattered over the heap, and each leads to the next: they are asked for in turn, of some tensors at a
// time, before any is looked at.
constexpr Py_ssize_t kBlock = 32;

inline PyObject* object_of(const at::TensorImpl* impl) {
  if constexpr (requires { impl->pyobj_slot()->load_pyobj(); })
    return impl->pyobj_slot()->load_pyobj();
  else
    return nullptr;
}

inline void prefetch_object(const PyObject* tensor, const Layout& layout) {
  prefetch(tensor);
  prefetch(reinterpret_cast<const char*>(tensor) + std::max(layout.part.offset, layout.spec.offset));
}

// What stands before a tensor's sizes: of a DTensor nothing else is read.
inline void prefetch_header(const at::TensorImpl* impl) {
  prefetch(impl);
  prefetch(&impl->version_counter());
}

}  // namespace torchclip::dtensors
