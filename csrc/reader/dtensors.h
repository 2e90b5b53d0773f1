// What a step asks of many DTensors at once, for torch.cpp alone: torchclip/distributed/parts.py says it in Python.
#pragma once

#include <exception>
#include <utility>

#include "dtensor_layout.h"

namespace torchclip::dtensors {

// Whether two specs lay tensors out alike: 1, 0, or -1 with Python's error set.
inline int are_alike(PyObject* spec, PyObject* wanted, const Layout& layout) {
  const Owned mesh(PyObject_GetAttr(spec, layout.mesh)), wanted_mesh(PyObject_GetAttr(wanted, layout.mesh));
  if (mesh == nullptr || wanted_mesh == nullptr) return -1;
  if (mesh != wanted_mesh) return 0;
  const Owned placements(PyObject_GetAttr(spec, layout.placements)),
      others(PyObject_GetAttr(wanted, layout.placements));
  if (placements == nullptr || others == nullptr) return -1;
  return PyObject_RichCompareBool(placements.get(), others.get(), Py_EQ);
}

inline void replace(PyObject*& held, Owned& by) { by.reset(std::exchange(held, by.release())); }

// As torch asks of what is assigned to `.grad`, of tensors that have nothing special.
inline bool fits(const at::TensorImpl* gradient, const at::TensorImpl* part) {
  return gradient != part && has_plain_keys(part) && has_plain_keys(gradient) && gradient->dtype() == part->dtype() &&
         gradient->device() == part->device() && gradient->sizes() == part->sizes();
}

inline void take_back(at::TensorImpl* part) {
  if (part->autograd_meta() != nullptr) part->mutable_grad().reset();
}

// Whether a gradient lies as its parameter: 1, 0, or -1 with Python's error set. `specs`: [2], of parameter and
// gradient when they were last found alike. Those are not looked into again, which takes longer than all the rest:
// torch expects no spec to change.
inline int lies_as(PyObject* gradient, PyObject* parameter, PyObject** specs, const Layout& layout) {
  const PyObject *const now = layout.held(gradient, layout.spec), *const own = layout.held(parameter, layout.spec);
  if (now != nullptr && (now == own || (now == specs[1] && own == specs[0]))) return 1;
  Owned spec(layout.of(gradient, layout.spec)), wanted(layout.of(parameter, layout.spec));
  if (spec == nullptr || wanted == nullptr) return -1;
  const int alike = are_alike(spec.get(), wanted.get(), layout);
  if (alike == 1) {
    replace(specs[0], wanted);
    replace(specs[1], spec);
  }
  return alike;
}

// 1, 0 where Python has to look, or -1 with its error set.
inline int lend(PyObject* parameter, PyObject* part, PyObject** specs, const Layout& layout) {
  if (Py_TYPE(parameter) != layout.type || !is_plain(part)) return 0;
  at::TensorImpl* const gradient = gradient_of(impl_of(parameter));
  if (gradient == nullptr) {
    take_back(impl_of(part));
    return 1;
  }
  const Owned object(THPVariable_Wrap(tensor_at(gradient)));
  if (object == nullptr) return -1;
  if (Py_TYPE(object.get()) != layout.type) return 0;
  if (const int alike = lies_as(object.get(), parameter, specs, layout); alike != 1) return alike;
  const Owned held(layout.of(object.get(), layout.part));
  if (held == nullptr) return -1;
  if (!is_plain(held.get()) || !fits(impl_of(held.get()), impl_of(part))) return 0;
  impl_of(part)->mutable_grad() = tensor_of(held.get());
  return 1;
}

inline void prefetch_gradients(PyObject* const* parameters, PyObject* const* parts, Py_ssize_t count,
                               const Layout& layout) {
  const at::TensorImpl* gradients[kBlock];
  PyObject* objects[kBlock];
  const auto each = [count](const auto& visit) {
    for (Py_ssize_t i = 0; i < count; ++i) visit(i);
  };
  each([&](Py_ssize_t i) {
    prefetch_object(parameters[i], layout);
    prefetch(parts[i]);
  });
  each([&](Py_ssize_t i) {
    prefetch_header(impl_of(parameters[i]));
    prefetch_tensor(impl_of(parts[i]));
  });
  each([&](Py_ssize_t i) {
    for (PyObject* const tensor : {parameters[i], parts[i]})
      if (const auto* const meta = autograd_of(impl_of(tensor)); meta != nullptr) prefetch(&meta->grad_);
  });
  each([&](Py_ssize_t i) {
    gradients[i] = gradient_of(impl_of(parameters[i]));
    if (gradients[i] != nullptr) prefetch_header(gradients[i]);
  });
  each([&](Py_ssize_t i) {
    objects[i] = gradients[i] == nullptr ? nullptr : object_of(gradients[i]);
    if (objects[i] != nullptr) prefetch_object(objects[i], layout);
  });
  each([&](Py_ssize_t i) {
    objects[i] = objects[i] == nullptr ? nullptr : layout.held(objects[i], layout.part);
    if (objects[i] != nullptr) prefetch(objects[i]);
  });
  each([&](Py_ssize_t i) {
    if (objects[i] != nullptr && is_plain(objects[i])) prefetch_tensor(impl_of(objects[i]));
  });
}

inline PyObject* lend_gradients(PyObject*, PyObject* arguments) {
  PyObject *parameters = nullptr, *parts = nullptr, *specs = nullptr;
  if (PyArg_ParseTuple(arguments, "O!O!O!", &PyList_Type, &parameters, &PyList_Type, &parts, &PyList_Type, &specs) == 0)
    return nullptr;
  const Py_ssize_t count = PyList_GET_SIZE(parameters);
  if (PyList_GET_SIZE(parts) != count || PyList_GET_SIZE(specs) != 2 * count) return wrong_lengths();
  Owned left(PyList_New(0));
  if (left == nullptr || count == 0) return left.release();
  const Layout* const known = layout();
  if (known == nullptr) return nullptr;
  PyObject **const wholes = PySequence_Fast_ITEMS(parameters), **const own = PySequence_Fast_ITEMS(parts);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (i % kBlock == 0) prefetch_gradients(wholes + i, own + i, std::min(kBlock, count - i), *known);
    const int lent = lend(wholes[i], own[i], PySequence_Fast_ITEMS(specs) + 2 * i, *known);
    if (lent < 0) return nullptr;
    if (lent == 1) continue;
    const Owned position(PyLong_FromSsize_t(i));
    if (position == nullptr || PyList_Append(left.get(), position.get()) != 0) return nullptr;
  }
  return left.release();
}

inline PyObject* take_gradients_back(PyObject*, PyObject* arguments) {
  PyObject* parts = nullptr;
  if (PyArg_ParseTuple(arguments, "O!", &PyList_Type, &parts) == 0) return nullptr;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(parts); ++i) take_back(impl_of(PyList_GET_ITEM(parts, i)));
  Py_RETURN_NONE;
}

template <class Chosen>
void count_versions_of(PyObject* tensors, const Chosen& is_chosen) {
  PyObject* const* const items = PySequence_Fast_ITEMS(tensors);
  for (Py_ssize_t begin = 0; begin < PyList_GET_SIZE(tensors); begin += kBlock) {
    const Py_ssize_t end = std::min(begin + kBlock, PyList_GET_SIZE(tensors));
    const auto each = [&](const auto& visit) {
      for (Py_ssize_t i = begin; i < end; ++i) visit(items[i]);
    };
    each([](PyObject* tensor) { prefetch(tensor); });
    each([](PyObject* tensor) { prefetch_header(impl_of(tensor)); });
    each([](PyObject* tensor) { prefetch_version(impl_of(tensor)); });
    each([&](PyObject* tensor) {
      at::TensorImpl* const impl = impl_of(tensor);
      if (!impl->is_inference() && is_chosen(impl)) impl->bump_version();
    });
  }
}

inline PyObject* count_versions(PyObject*, PyObject* arguments) {
  PyObject *parameters = nullptr, *others = nullptr;
  if (PyArg_ParseTuple(arguments, "O!O!", &PyList_Type, &parameters, &PyList_Type, &others) == 0) return nullptr;
  count_versions_of(parameters, [](const at::TensorImpl* parameter) { return gradient_of(parameter) != nullptr; });
  count_versions_of(others, [](const at::TensorImpl*) { return true; });
  Py_RETURN_NONE;
}

inline PyObject* hold_parameters(PyObject*, PyObject* arguments) {
  PyObject *param_groups = nullptr, *parameters = nullptr;
  if (PyArg_ParseTuple(arguments, "OO!", &param_groups, &PyList_Type, &parameters) == 0) return nullptr;
  const auto is_list = [](PyObject* object) { return PyList_Check(object) || PyTuple_Check(object); };
  if (!is_list(param_groups) || PySequence_Fast_GET_SIZE(param_groups) != PyList_GET_SIZE(parameters)) Py_RETURN_FALSE;
  static PyObject* const name = PyUnicode_InternFromString("params");
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(parameters); ++i) {
    PyObject *const group = PySequence_Fast_GET_ITEM(param_groups, i), *const known = PyList_GET_ITEM(parameters, i);
    PyObject* const params = PyDict_Check(group) ? PyDict_GetItemWithError(group, name) : nullptr;
    if (PyErr_Occurred() != nullptr) return nullptr;
    if (params == nullptr || !is_list(params) || !PyList_Check(known)) Py_RETURN_FALSE;
    if (PySequence_Fast_GET_SIZE(params) != PyList_GET_SIZE(known)) Py_RETURN_FALSE;
    PyObject *const *const now = PySequence_Fast_ITEMS(params), *const *const before = PySequence_Fast_ITEMS(known);
    if (!std::equal(before, before + PyList_GET_SIZE(known), now)) Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
}

inline PyObject* hold_parts(PyObject*, PyObject* arguments) {
  PyObject *sharded = nullptr, *parts = nullptr;
  if (PyArg_ParseTuple(arguments, "O!O!", &PyList_Type, &sharded, &PyList_Type, &parts) == 0) return nullptr;
  const Py_ssize_t count = PyList_GET_SIZE(sharded);
  if (PyList_GET_SIZE(parts) != count) return wrong_lengths();
  if (count == 0) Py_RETURN_TRUE;
  const Layout* const known = layout();
  if (known == nullptr) return nullptr;
  for (Py_ssize_t i = 0; i < std::min(kBlock, count); ++i) prefetch_object(PyList_GET_ITEM(sharded, i), *known);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (i + kBlock < count) prefetch_object(PyList_GET_ITEM(sharded, i + kBlock), *known);
    const Owned held(known->of(PyList_GET_ITEM(sharded, i), known->part));
    if (held == nullptr) return nullptr;
    if (held.get() != PyList_GET_ITEM(parts, i)) Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
}

inline void prefetch_dicts(PyObject* dicts, Py_ssize_t begin) {
  const Py_ssize_t end = std::min(begin + kBlock, PyList_GET_SIZE(dicts));
  for (Py_ssize_t i = begin; i < end; ++i) prefetch(PyList_GET_ITEM(dicts, i));
  for (Py_ssize_t i = begin; i < end; ++i) {
    if (!PyDict_Check(PyList_GET_ITEM(dicts, i))) continue;
    const void* const entries = reinterpret_cast<PyDictObject*>(PyList_GET_ITEM(dicts, i))->ma_keys;
    prefetch(entries);
    prefetch(static_cast<const char*>(entries) + 64);
  }
}

inline PyObject* hold_values(PyObject*, PyObject* arguments) {
  PyObject *state = nullptr, *dicts = nullptr, *values = nullptr;
  if (PyArg_ParseTuple(arguments, "OO!O!", &state, &PyList_Type, &dicts, &PyList_Type, &values) == 0) return nullptr;
  if (!PyDict_Check(state)) Py_RETURN_FALSE;
  Py_ssize_t cursor = 0, dict_count = 0, value_count = 0;
  PyObject *key = nullptr, *dict = nullptr, *value = nullptr;
  while (PyDict_Next(state, &cursor, &key, &dict) != 0) {
    if (dict_count == PyList_GET_SIZE(dicts) || PyList_GET_ITEM(dicts, dict_count) != dict) Py_RETURN_FALSE;
    if (dict_count % kBlock == 0) prefetch_dicts(dicts, dict_count);
    ++dict_count;
    Py_ssize_t within = 0;
    while (PyDict_Check(dict) && PyDict_Next(dict, &within, &key, &value) != 0)
      if (value_count == PyList_GET_SIZE(values) || PyList_GET_ITEM(values, value_count++) != value) Py_RETURN_FALSE;
  }
  return PyBool_FromLong(dict_count == PyList_GET_SIZE(dicts) && value_count == PyList_GET_SIZE(values));
}

template <PyObject* (*function)(PyObject*, PyObject*)>
PyObject* guarded(PyObject* self, PyObject* arguments) noexcept {
  try {
    return function(self, arguments);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

inline PyMethodDef functions[] = {{"lend_gradients", &guarded<&lend_gradients>, METH_VARARGS, nullptr},
                                  {"take_gradients_back", &guarded<&take_gradients_back>, METH_VARARGS, nullptr},
                                  {"count_versions", &guarded<&count_versions>, METH_VARARGS, nullptr},
                                  {"hold_parameters", &guarded<&hold_parameters>, METH_VARARGS, nullptr},
                                  {"hold_parts", &guarded<&hold_parts>, METH_VARARGS, nullptr},
                                  {"hold_values", &guarded<&hold_values>, METH_VARARGS, nullptr},
                                  {nullptr, nullptr, 0, nullptr}};

}  // namespace torchclip::dtensors
