// Python's objects from C++, by its limited API alone: one binary serves every Python from 3.10 on.
#pragma once

#include <Python.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace torchclip {

// An owned reference, or none.
class Object {
 public:
  Object() = default;
  // Of a new reference; an error that Python has raised in its place goes on as one of C++.
  static Object take(PyObject* object);
  static Object borrow(PyObject* object) {
    Py_XINCREF(object);
    return Object(object);
  }
  Object(const Object& other) : object_(other.object_) { Py_XINCREF(object_); }
  Object(Object&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Object& operator=(Object other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Object() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }
  bool is_none() const { return object_ == Py_None; }

  Object attribute(const char* name) const { return take(PyObject_GetAttrString(object_, name)); }
  template <class... Arguments>
  Object operator()(const Arguments&... arguments) const {
    return take(PyObject_CallFunctionObjArgs(object_, arguments.get()..., nullptr));
  }
  template <class... Arguments>
  Object call(const char* method, const Arguments&... arguments) const {
    return attribute(method)(arguments...);
  }
  Object call_with(const Object& arguments, const Object& named) const {
    return take(PyObject_Call(object_, arguments.get(), named.get()));
  }

 private:
  explicit Object(PyObject* object) : object_(object) {}
  PyObject* object_ = nullptr;
};

// What Python has raised. Destroyed where the GIL is held.
class PythonError : public std::exception {
 public:
  PythonError();  // takes the error that is set
  void restore();
  const char* what() const noexcept override { return "an error of Python"; }

 private:
  Object type_, value_, traceback_;
};

// Errors that Python sees as its own of the same name; any other exception is a RuntimeError there.
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct ValueError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct KeyError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// Sets Python's error from the exception that is being handled.
void raise_in_python() noexcept;

// Lets other threads of Python run meanwhile.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() { PyEval_RestoreThread(state_); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

std::vector<Object> interned(const std::vector<std::string>& names);

// An attribute of a module, which is imported, or by points one of that; a reference that is never given up.
PyObject* kept_attribute(const char* module, const char* name);
bool is_tensor(PyObject* value);
std::string type_name(PyObject* value);
std::string text_of(PyObject* value);          // as str() has it
std::string description_of(PyObject* tensor);  // for messages: type, shape and device

// Borrowed; null when absent.
PyObject* lookup(const Object& dict, const Object& key);
void put(const Object& dict, const char* name, const Object& value);

Object to_python(bool value);
Object to_python(int value);
Object to_python(int64_t value);
Object to_python(size_t value);
Object to_python(double value);
Object to_python(const char* value);
inline Object to_python(const std::string& value) { return to_python(value.c_str()); }
inline Object to_python(const Object& value) { return value; }
inline Object none() { return Object::borrow(Py_None); }
Object make_dict();
Object make_list(size_t size);                                 // to be filled by set_item
void set_item(const Object& list, size_t index, Object item);  // once for each
template <class T>
Object to_python(const std::vector<T>& values) {
  Object list = make_list(values.size());
  for (size_t i = 0; i < values.size(); ++i) set_item(list, i, to_python(values[i]));
  return list;
}
Object make_tuple_of(std::vector<Object> items);
template <class... Values>
Object make_tuple(const Values&... values) {
  return make_tuple_of({to_python(values)...});
}

// As a function's arguments are read: Python's error where the value is none of the type.
int64_t to_int(PyObject* value);
double to_double(PyObject* value);
std::string to_string(PyObject* value);
bool to_bool(PyObject* value);
// The items of any sequence, or of another iterable.
std::vector<Object> items_of(PyObject* sequence);
template <class Read>
auto vector_of(PyObject* sequence, const Read& read) {
  std::vector<decltype(read(sequence))> values;
  for (const Object& item : items_of(sequence)) values.push_back(read(item.get()));
  return values;
}

// A float, an int or a bool as Python makes them: no tensor, and nothing that can change. Asking whether something is a
// tensor takes longer than all the rest.
inline bool is_python_number(PyObject* value) {
  return PyFloat_CheckExact(value) || PyBool_Check(value) || PyLong_CheckExact(value);
}

// Appends the number that `value` is: a float, int, bool, a one-element tensor, or what else number_of() of
// torchclip/rules/hyperparameters.py takes for one. False where it is none of those.
bool append_number(PyObject* value, std::vector<double>& numbers);

// Appends the numbers that `value` holds, in a tuple, a list, a tensor of one dimension, or what else parts_of() there
// takes apart. False where they are not `count` numbers.
bool append_numbers(PyObject* value, size_t count, std::vector<double>& numbers);

}  // namespace torchclip
