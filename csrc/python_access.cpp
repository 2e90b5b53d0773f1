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

namespace {

// Whether a call into Python has failed because a value is none of those asked for. What else stopped it, Ctrl-C say,
// goes on.
bool has_refused() {
  if (PyErr_Occurred() == nullptr) return false;
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0) throw py::error_already_set();
  PyErr_Clear();
  return true;
}

}  // namespace

bool append_number(PyObject* value, std::vector<double>& numbers) {
  if (!is_python_number(value) && THPVariable_Check(value)) {
    const at::Tensor& tensor = THPVariable_Unpack(value);
    if (tensor.numel() != 1 || tensor.is_complex()) return false;
    numbers.push_back(tensor.item().toDouble());
    return true;
  }
  const double number = PyFloat_AsDouble(value);
  if (number == -1.0 && has_refused()) return false;
  numbers.push_back(number);
  return true;
}

bool append_numbers(PyObject* value, size_t count, std::vector<double>& numbers) {
  if (!PyTuple_CheckExact(value) && THPVariable_Check(value)) {
    const at::Tensor& tensor = THPVariable_Unpack(value);
    if (tensor.dim() != 1 || tensor.numel() != static_cast<int64_t>(count) || tensor.is_complex()) return false;
    for (int64_t i = 0; i < tensor.numel(); ++i) numbers.push_back(tensor[i].item().toDouble());
    return true;
  }
  if (PySequence_Check(value) == 0) return false;
  const py::object items = py::reinterpret_steal<py::object>(PySequence_Tuple(value));
  if (!items) return has_refused() && false;
  if (static_cast<size_t>(PyTuple_GET_SIZE(items.ptr())) != count) return false;
  for (size_t i = 0; i < count; ++i)
    if (!append_number(PyTuple_GET_ITEM(items.ptr(), static_cast<Py_ssize_t>(i)), numbers)) return false;
  return true;
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
