#include "python_access.h"

namespace torchclip {

std::vector<py::object> interned(const std::vector<std::string>& names) {
  std::vector<py::object> keys;
  for (const std::string& name : names)
    keys.push_back(py::reinterpret_steal<py::object>(PyUnicode_InternFromString(name.c_str())));
  return keys;
}

PyObject* lookup(const py::object& dict, const py::object& key) {
  PyObject* value = PyDict_GetItemWithError(dict.ptr(), key.ptr());
  if (value == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

void append_numbers(PyObject* value, std::vector<double>& numbers) {
  if (PyTuple_Check(value) || PyList_Check(value)) {
    const py::sequence items = py::reinterpret_borrow<py::sequence>(value);
    for (const py::handle item : items) append_numbers(item.ptr(), numbers);
    return;
  }
  if (THPVariable_Check(value)) {
    numbers.push_back(THPVariable_Unpack(value).item().toDouble());
    return;
  }
  const double number = PyFloat_AsDouble(value);
  if (number == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  numbers.push_back(number);
}

#if PY_VERSION_HEX < 0x030C0000
bool DictSeen::changed(PyObject* dict) const {
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag != version_;
}

void DictSeen::remember(PyObject* dict) { version_ = reinterpret_cast<PyDictObject*>(dict)->ma_version_tag; }
#else
bool DictSeen::changed(PyObject* dict) const {
  Py_ssize_t cursor = 0;
  PyObject *key = nullptr, *value = nullptr;
  size_t count = 0;
  while (PyDict_Next(dict, &cursor, &key, &value) != 0) {
    if (count == kEntries || values_[count++] != value) return true;  // a larger dict is read anew at every step
  }
  return count != count_;
}

void DictSeen::remember(PyObject* dict) {
  Py_ssize_t cursor = 0;
  PyObject *key = nullptr, *value = nullptr;
  count_ = 0;
  while (count_ < kEntries && PyDict_Next(dict, &cursor, &key, &value) != 0) values_[count_++] = value;
}
#endif

}  // namespace torchclip
