// What Python's Tensor is asked that DLPack does not say, for dlpack.cpp alone.
#pragma once

#include "../python_access.h"
#include "dlpack.h"

namespace torchclip {

// A method of torch.Tensor that answers with a bool, without an attribute to look up.
inline bool ask(PyObject* method, PyObject* tensor) {
  return to_bool(Object::take(PyObject_CallFunctionObjArgs(method, tensor, nullptr)).get());
}

// What a descriptor of torch's is bound to, or answers, for a tensor: without a search through class and object for it.
inline Object bind(PyObject* descriptor, PyObject* tensor) {
  const auto get = reinterpret_cast<descrgetfunc>(PyType_GetSlot(Py_TYPE(descriptor), Py_tp_descr_get));
  return Object::take(get(descriptor, tensor, reinterpret_cast<PyObject*>(Py_TYPE(tensor))));
}

// Every gradient is asked in every step. To call the function behind the method takes a sixth less than the method.
inline bool is_negated(PyObject* tensor) {
  static PyObject* const method = kept_attribute("torch", "Tensor.is_neg");
  static const PyCFunction function = [tensor]() -> PyCFunction {
    const Object bound = bind(method, tensor);
    return PyCFunction_GetFlags(bound.get()) == METH_NOARGS ? PyCFunction_GetFunction(bound.get()) : nullptr;
  }();
  return function == nullptr ? ask(method, tensor) : to_bool(Object::take(function(tensor, nullptr)).get());
}

// A lazily negated or, of complex numbers, conjugated view.
inline bool is_lazy(PyObject* tensor, const dlpack::TensorView& view) {
  static PyObject* const is_conj = kept_attribute("torch", "Tensor.is_conj");
  return is_negated(tensor) || (view.dtype.code == ElementType::kComplex && ask(is_conj, tensor));
}

// Of no subclass, which may answer for itself.
inline bool is_plain(PyObject* tensor) {
  static PyObject* const kTensor = kept_attribute("torch", "Tensor");
  static PyObject* const kParameter = kept_attribute("torch.nn", "Parameter");
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
  return type == kParameter || type == kTensor;
}

// A subclass that dispatches every operation itself stands for other tensors, as a DTensor does.
inline bool is_wrapper(PyObject* tensor) {
  static PyObject* const kPlain = kept_attribute("torch", "Tensor.__torch_dispatch__");
  if (is_plain(tensor)) return false;
  const Object own = Object::borrow(reinterpret_cast<PyObject*>(Py_TYPE(tensor))).attribute("__torch_dispatch__");
  return PyObject_RichCompareBool(own.get(), kPlain, Py_EQ) != 1;
}

}  // namespace torchclip
