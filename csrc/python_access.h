// Reading Python's dicts and numbers from C++.
#pragma once

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <array>
#include <string>
#include <vector>

namespace torchclip {

std::vector<py::object> interned(const std::vector<std::string>& names);

// Borrowed; null when absent.
PyObject* lookup(const py::object& dict, const py::object& key);

// A float, an int or a bool as Python makes them: no tensor, and nothing that can change. Asking whether something is a
// tensor calls Python for everything else, and takes longer than all the rest.
inline bool is_python_number(PyObject* value) {
  return PyFloat_CheckExact(value) || PyBool_Check(value) || PyLong_CheckExact(value);
}

// Appends the number that `value` is: a float, int, bool, one of numpy's, or a one-element tensor. False where it is
// none of those, text included.
bool append_number(PyObject* value, std::vector<double>& numbers);

// Appends the numbers that `value` holds, in any sequence or a tensor of one dimension. False where they are not
// `count` numbers.
bool append_numbers(PyObject* value, size_t count, std::vector<double>& numbers);

// Notices that a dict holds other objects than last time. Up to Python 3.11 every change gives a dict a new version
// number; later the values are compared one by one, which takes some ten nanoseconds more.
class DictSeen {
 public:
  bool changed(PyObject* dict) const;
  void remember(PyObject* dict);

 private:
#if PY_VERSION_HEX < 0x030C0000
  uint64_t version_ = 0;
#else
  static constexpr size_t kEntries = 8;
  size_t count_ = SIZE_MAX;  // of no dict, an empty one included
  std::array<PyObject*, kEntries> values_ = {};
#endif
};

}  // namespace torchclip
