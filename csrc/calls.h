// Functions of C++ as Python calls them.
#pragma once

#include <string>

#include "python_access.h"
#include "reader/reader.h"
#include "threads.h"

namespace torchclip {

struct Arguments {
  PyObject* const* values;
  Py_ssize_t count;

  PyObject* operator[](Py_ssize_t index) const { return values[index]; }
  void expect(const char* function, Py_ssize_t least, Py_ssize_t most) const {
    if (least <= count && count <= most) return;
    const std::string range =
        least == most ? std::to_string(least) : std::to_string(least) + " to " + std::to_string(most);
    throw TypeError(std::string(function) + "() takes " + range + " arguments, and was given " + std::to_string(count));
  }
};

// What every call begins with.
inline void begin_call() {
  if (!has_reader()) use_reader(nullptr);
  remember_thread_count();
}

template <class Body>
PyObject* guarded(const Body& body) noexcept {
  try {
    return body().release();
  } catch (...) {
    raise_in_python();
    return nullptr;
  }
}

template <Object (*body)(const Arguments&)>
PyObject* function(PyObject*, PyObject* const* values, Py_ssize_t count) noexcept {
  return guarded([&] {
    begin_call();
    return body(Arguments{values, count});
  });
}

using FastFunction = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
inline PyMethodDef method_of(const char* name, FastFunction function, const char* signature) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, signature};
}

}  // namespace torchclip
