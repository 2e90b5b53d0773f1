#include "python_access.h"

#include <algorithm>
#include <new>

namespace torchclip {

Object Object::take(PyObject* object) {
  if (object == nullptr) throw PythonError();
  return Object(object);
}

PythonError::PythonError() {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  const auto owned = [](PyObject* object) { return object == nullptr ? Object() : Object::take(object); };
  type_ = owned(type);
  value_ = owned(value);
  traceback_ = owned(traceback);
}

void PythonError::restore() { PyErr_Restore(type_.release(), value_.release(), traceback_.release()); }

void raise_in_python() noexcept {
  try {
    throw;
  } catch (PythonError& error) {
    error.restore();
  } catch (const TypeError& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  } catch (const ValueError& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const KeyError& error) {
    PyErr_SetString(PyExc_KeyError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  } catch (...) {
    PyErr_SetString(PyExc_RuntimeError, "torchclip._C has thrown something that is no exception");
  }
}

std::vector<Object> interned(const std::vector<std::string>& names) {
  std::vector<Object> keys;
  for (const std::string& name : names) keys.push_back(Object::take(PyUnicode_InternFromString(name.c_str())));
  return keys;
}

PyObject* kept_attribute(const char* module, const char* name) {
  Object found = Object::take(PyImport_ImportModule(module));
  const std::string path = name;
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    found = found.attribute(path.substr(begin, end - begin).c_str());
    begin = end + 1;
  }
  return found.release();
}

bool is_tensor(PyObject* value) {
  static PyTypeObject* const kTensor = reinterpret_cast<PyTypeObject*>(kept_attribute("torch", "Tensor"));
  return Py_TYPE(value) == kTensor || PyType_IsSubtype(Py_TYPE(value), kTensor) != 0;
}

std::string type_name(PyObject* value) {
  return to_string(Object::borrow(reinterpret_cast<PyObject*>(Py_TYPE(value))).attribute("__name__").get());
}

std::string text_of(PyObject* value) { return to_string(Object::take(PyObject_Str(value)).get()); }

std::string description_of(PyObject* tensor) {
  const Object object = Object::borrow(tensor);
  const auto text = [&](const char* name) { return text_of(object.attribute(name).get()); };
  const Object shape = Object::take(PySequence_List(object.attribute("shape").get()));
  return "a tensor of " + text("dtype") + " of shape " + text_of(shape.get()) + " on " + text("device");
}

PyObject* lookup(const Object& dict, const Object& key) {
  PyObject* value = PyDict_GetItemWithError(dict.get(), key.get());
  if (value == nullptr && PyErr_Occurred() != nullptr) throw PythonError();
  return value;
}

void put(const Object& dict, const char* name, const Object& value) {
  if (PyDict_SetItemString(dict.get(), name, value.get()) != 0) throw PythonError();
}

Object to_python(bool value) { return Object::borrow(value ? Py_True : Py_False); }
Object to_python(int value) { return Object::take(PyLong_FromLong(value)); }
Object to_python(int64_t value) { return Object::take(PyLong_FromLongLong(value)); }
Object to_python(size_t value) { return Object::take(PyLong_FromSize_t(value)); }
Object to_python(double value) { return Object::take(PyFloat_FromDouble(value)); }
Object to_python(const char* value) { return Object::take(PyUnicode_FromString(value)); }
Object make_dict() { return Object::take(PyDict_New()); }
Object make_list(size_t size) { return Object::take(PyList_New(static_cast<Py_ssize_t>(size))); }

void set_item(const Object& list, size_t index, Object item) {
  if (PyList_SetItem(list.get(), static_cast<Py_ssize_t>(index), item.release()) != 0) throw PythonError();
}

Object make_tuple_of(std::vector<Object> items) {
  Object tuple = Object::take(PyTuple_New(static_cast<Py_ssize_t>(items.size())));
  for (size_t i = 0; i < items.size(); ++i)
    if (PyTuple_SetItem(tuple.get(), static_cast<Py_ssize_t>(i), items[i].release()) != 0) throw PythonError();
  return tuple;
}

namespace {

template <class T>
T unless_error(T value) {
  if (value == static_cast<T>(-1) && PyErr_Occurred() != nullptr) throw PythonError();
  return value;
}

}  // namespace

int64_t to_int(PyObject* value) { return unless_error<int64_t>(PyLong_AsLongLong(value)); }
double to_double(PyObject* value) { return unless_error(PyFloat_AsDouble(value)); }
bool to_bool(PyObject* value) { return unless_error(PyObject_IsTrue(value)) != 0; }

std::string to_string(PyObject* value) {
  Py_ssize_t size = 0;
  const char* const text = PyUnicode_AsUTF8AndSize(value, &size);
  if (text == nullptr) throw PythonError();
  return {text, static_cast<size_t>(size)};
}

std::vector<Object> items_of(PyObject* sequence) {
  const Object tuple = Object::take(PySequence_Tuple(sequence));
  std::vector<Object> items;
  for (Py_ssize_t i = 0; i < PyTuple_Size(tuple.get()); ++i)
    items.push_back(Object::borrow(PyTuple_GetItem(tuple.get(), i)));
  return items;
}

namespace {

// Whether a call into Python has failed because a value is none of those asked for. What else stopped it, Ctrl-C say,
// goes on.
bool has_refused() {
  if (PyErr_Occurred() == nullptr) return false;
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0) throw PythonError();
  PyErr_Clear();
  return true;
}

// Of a tensor: its elements as numbers of Python, in nested lists where it has dimensions.
Object numbers_of(PyObject* tensor) { return Object::borrow(tensor).call("tolist"); }

int64_t numel_of(PyObject* tensor) { return to_int(Object::borrow(tensor).call("numel").get()); }

// What a function of torchclip/rules/hyperparameters.py makes of a value; none where it finds no number there.
template <class... Arguments>
Object found_by(PyObject* function, const Arguments&... arguments) {
  PyObject* const found = PyObject_CallFunctionObjArgs(function, arguments..., nullptr);
  if (found == nullptr && has_refused()) return Object();
  const Object object = Object::take(found);
  return object.is_none() ? Object() : object;
}

}  // namespace

bool append_number(PyObject* value, std::vector<double>& numbers) {
  Object converted;
  if (!is_python_number(value) && !PyFloat_Check(value)) {
    if (is_tensor(value)) {
      if (numel_of(value) != 1) return false;
      const Object number = Object::borrow(value).call("item");
      if (PyComplex_Check(number.get())) return false;
      numbers.push_back(to_double(number.get()));
      return true;
    }
    static PyObject* const number_of = kept_attribute("torchclip.rules.hyperparameters", "number_of");
    converted = found_by(number_of, value);
    if (!converted) return false;
    value = converted.get();
  }
  const double number = PyFloat_AsDouble(value);
  if (number == -1.0 && has_refused()) return false;
  numbers.push_back(number);
  return true;
}

bool append_numbers(PyObject* value, size_t count, std::vector<double>& numbers) {
  Object items = Object::borrow(value);
  if (!PyTuple_CheckExact(value) && !PyList_CheckExact(value)) {
    if (is_tensor(value)) {
      if (to_int(items.call("dim").get()) != 1) return false;
      items = numbers_of(value);
    } else {
      static PyObject* const parts_of = kept_attribute("torchclip.rules.hyperparameters", "parts_of");
      items = found_by(parts_of, value, to_python(count).get());
      if (!items) return false;
    }
  }
  const Object tuple = Object::take(PySequence_Tuple(items.get()));
  if (static_cast<size_t>(PyTuple_Size(tuple.get())) != count) return false;
  for (size_t i = 0; i < count; ++i)
    if (!append_number(PyTuple_GetItem(tuple.get(), static_cast<Py_ssize_t>(i)), numbers)) return false;
  return true;
}

}  // namespace torchclip
