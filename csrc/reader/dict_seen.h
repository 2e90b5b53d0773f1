// Noticing that a dict holds other objects than last time.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>

namespace torchclip {

// Up to Python 3.11 every change gives a dict a new version number, which only torch.cpp can see; else the values are
// compared one by one, which takes some ten nanoseconds more.
struct DictSeen {
  static constexpr size_t kEntries = 8;
  uint64_t version = 0;
  size_t count = SIZE_MAX;  // of no dict, an empty one included
  PyObject* values[kEntries] = {};

  bool has_other_values(PyObject* dict) const {
    Py_ssize_t cursor = 0;
    PyObject *key = nullptr, *value = nullptr;
    size_t seen = 0;
    while (PyDict_Next(dict, &cursor, &key, &value) != 0) {
      if (seen == kEntries || values[seen++] != value) return true;  // a larger dict is read anew at every step
    }
    return seen != count;
  }

  void remember_values(PyObject* dict) {
    Py_ssize_t cursor = 0;
    PyObject *key = nullptr, *value = nullptr;
    count = 0;
    while (count < kEntries && PyDict_Next(dict, &cursor, &key, &value) != 0) values[count++] = value;
  }
};

}  // namespace torchclip
