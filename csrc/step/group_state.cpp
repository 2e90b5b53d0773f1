#include "group_state.h"

#include "../reader/tensor_info.h"
#include "../scalar_ops.h"

namespace torchclip {
namespace {

constexpr const char* kRemedy =
    "; it is state of the optimizer: load a state_dict, or make the optimizer anew, and do not assign to it";

}  // namespace

GroupState::GroupState(const Object& group, DeviceType type, int index) : type_(type), index_(index) {
  static const Object* const key = new Object(interned({"shared"}).front());
  dict_ = lookup(group, *key);
  if (dict_ != nullptr && !PyDict_Check(dict_)) dict_ = nullptr;
}

PyObject* GroupState::find(const char* name, ElementType wanted, DeviceType type, int64_t length) const {
  PyObject* const found = dict_ == nullptr ? nullptr : PyDict_GetItemString(dict_, name);
  const std::string number = std::string("\"") + name + "\"";
  if (found == nullptr || !is_tensor(found))
    throw std::runtime_error("param_groups' \"shared\" has no tensor " + number + kRemedy);
  TensorInfo value;
  const bool is_there = reader().describe_object(found, /*writes=*/true, value) && value.device.type == type &&
                        (type == kCpu || index_ < 0 || value.device.index == index_);
  const bool is_vector = length != kOneNumber;
  const std::string count = std::to_string(is_vector ? length : 1);
  const bool has_shape = value.dim == (is_vector ? 1 : 0) && value.numel == (is_vector ? length : 1);
  if (!is_there || value.type != wanted || !has_shape || !is_contiguous(value))
    throw std::runtime_error("param_groups' \"shared\" number " + number + " is " + description_of(found) + ", where " +
                             count + " of " + (wanted == kLongType ? "torch.int64" : "torch.float64") + " on " +
                             name_of(type) + " are wanted, of shape [" + (is_vector ? count : "") + "]" + kRemedy);
  return found;
}

double* GroupState::numbers(const char* name, int64_t length) const {
  TensorInfo value;
  reader().describe_object(find(name, kDoubleType, type_, length), /*writes=*/true, value);
  return static_cast<double*>(value.data);
}

double GroupState::positive(const char* name) const {
  const double value = *numbers(name);
  if (!(value > 0) || !is_finite(value))
    throw ValueError(std::string("param_groups' \"shared\" number \"") + name + "\" is " +
                     text_of(to_python(value).get()) + ", and a finite number above 0 is wanted" + kRemedy);
  return value;
}

double GroupState::count(const char* name) const {
  const double value = *numbers(name);
  if (!is_count(value))
    throw ValueError(std::string("param_groups' \"shared\" number \"") + name + "\" is " +
                     text_of(to_python(value).get()) + ", and a whole number from 0 to 2**53 is wanted" + kRemedy);
  return value;
}

uint64_t GroupState::seed() const {
  TensorInfo value;
  reader().describe_object(find("seed", kLongType, kCpu, kOneNumber), /*writes=*/false, value);
  return static_cast<uint64_t>(*static_cast<const int64_t*>(value.data));
}

}  // namespace torchclip
