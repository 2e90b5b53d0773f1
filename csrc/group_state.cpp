#include "group_state.h"

#include "scalar_ops.h"
#include "tensor_access.h"

namespace torchclip {
namespace {

constexpr const char* kRemedy =
    "; it is state of the optimizer: load a state_dict, or make the optimizer anew, and do not assign to it";

}  // namespace

GroupState::GroupState(const py::object& group, c10::Device device) : device_(device) {
  static PyObject* const key = PyUnicode_InternFromString("shared");
  dict_ = PyDict_GetItemWithError(group.ptr(), key);
  if (dict_ != nullptr && !PyDict_Check(dict_)) dict_ = nullptr;
}

const at::Tensor& GroupState::find(const char* name, at::ScalarType dtype, c10::Device device, int64_t count) const {
  PyObject* const found = dict_ == nullptr ? nullptr : PyDict_GetItemString(dict_, name);
  TORCH_CHECK(found != nullptr && THPVariable_Check(found), "param_groups' \"shared\" has no tensor \"", name, "\"",
              kRemedy);
  const at::Tensor& value = THPVariable_Unpack(found);
  const bool is_there = device.is_cpu() || !device.has_index() || value.device() == device;
  TORCH_CHECK(is_plain(value, device.type()) && is_there && value.scalar_type() == dtype && value.numel() == count &&
                  value.is_contiguous(),
              "param_groups' \"shared\" number \"", name, "\" is ", value.scalar_type(), " of shape ", value.sizes(),
              " on ", value.device(), ", where ", count, " of ", dtype, " on ", device, " are wanted", kRemedy);
  return value;
}

double* GroupState::numbers(const char* name, int64_t count) const {
  return tensor(name, count).mutable_data_ptr<double>();
}

double GroupState::count(const char* name) const {
  const double value = *numbers(name);
  TORCH_CHECK_VALUE(is_count(value), "param_groups' \"shared\" number \"", name, "\" is ", value,
                    ", and a whole number from 0 to 2**53 is wanted", kRemedy);
  return value;
}

uint64_t GroupState::seed() const {
  return static_cast<uint64_t>(*find("seed", at::kLong, c10::kCPU, 1).const_data_ptr<int64_t>());
}

}  // namespace torchclip
