// torch's structures, for torch.cpp alone.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include "fingerprint.h"
#include "parameter_record.h"

namespace torchclip {

inline at::TensorImpl* impl_of(Handle tensor) { return static_cast<at::TensorImpl*>(tensor); }
inline const at::Tensor& tensor_of(PyObject* object) { return THPVariable_Unpack(object); }
// Null for a tensor that autograd has never seen.
inline const torch::autograd::AutogradMeta* autograd_of(const at::TensorImpl* impl) {
  return static_cast<const torch::autograd::AutogradMeta*>(impl->autograd_meta());
}
// Null where there is none. TensorImpl::grad() is two calls into torch's libraries, one of them virtual.
__attribute__((always_inline)) inline at::TensorImpl* gradient_of(const at::TensorImpl* parameter) {
  const torch::autograd::AutogradMeta* const meta = autograd_of(parameter);
  return meta != nullptr && meta->grad_.defined() ? meta->grad_.unsafeGetTensorImpl() : nullptr;
}
inline at::TensorImpl* parameter_of(const ParameterRecord& record) {
  return tensor_of(record.object.get()).unsafeGetTensorImpl();
}

// Going by its dispatch keys: a dense tensor, not sparse or nested, and none that stands for others. Of every other
// tensor even the sizes and strides may throw.
constexpr c10::DispatchKeySet kDenseKey(c10::DispatchKey::Dense);
constexpr c10::DispatchKeySet kKeysOfOthers({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot,
                                             c10::DispatchKey::Functionalize, c10::DispatchKey::FuncTorchGradWrapper,
                                             c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::BatchedNestedTensor,
                                             c10::DispatchKey::Batched, c10::DispatchKey::Conjugate,
                                             c10::DispatchKey::Negative, c10::DispatchKey::ZeroTensor});
inline bool has_plain_keys(const at::TensorImpl* impl) {
  return (impl->key_set() & (kDenseKey | kKeysOfOthers)) == kDenseKey;
}
// The same of one that lies on the CPU, at the cost of one comparison.
inline bool has_plain_cpu_keys(const at::TensorImpl* impl) {
  constexpr c10::DispatchKeySet kCpuKey(c10::BackendComponent::CPUBit);
  return (impl->key_set() & (kDenseKey | kKeysOfOthers | kCpuKey)) == (kDenseKey | kCpuKey);
}

inline Device device_of(const at::TensorImpl* impl) {
  const c10::Device device = impl->device();
  switch (device.type()) {
    case c10::kCPU:
      return {kCpu, 0};
    case c10::kCUDA:
      return {kCuda, device.index()};
    default:
      return {1000 + static_cast<int32_t>(device.type()), device.index()};  // none that a plan serves
  }
}

inline ElementType type_of(const at::TensorImpl* impl) {
  switch (impl->dtype().toScalarType()) {
    case at::kFloat:
      return kFloatType;
    case at::kDouble:
      return kDoubleType;
    case at::kBFloat16:
      return {ElementType::kBfloat, 16};
    case at::kHalf:
      return {ElementType::kFloat, 16};
    case at::kComplexFloat:
      return {ElementType::kComplex, 64};
    case at::kComplexDouble:
      return {ElementType::kComplex, 128};
    case at::kLong:
      return kLongType;
    case at::kShort:
      return kShortType;
    case at::kByte:
      return kByteType;
    default:
      return {255, static_cast<uint8_t>(impl->dtype().toScalarType())};
  }
}

// In bytes. The size of an element is a call into torch's libraries, and nearly every offset is 0.
__attribute__((always_inline)) inline int64_t offset_of(const at::TensorImpl* impl) {
  const int64_t offset = impl->storage_offset();
  return offset == 0 ? 0 : offset * static_cast<int64_t>(impl->itemsize());
}

// The address of the first element of a tensor that has been found plain. at::Tensor's own accessors go through a
// virtual call and a check of the type, which add up over a thousand tensors. `missing` becomes true where there is no
// memory, as of a tensor without elements.
__attribute__((always_inline)) inline void* first_element(const at::TensorImpl* impl, bool& missing) {
  char* base = static_cast<char*>(impl->unsafe_storage().mutable_data());
  missing |= base == nullptr;
  return base + offset_of(impl);
}
// The same of a tensor that is only read: memory that a lazy clone shares stays shared.
__attribute__((always_inline)) inline const void* first_element_read(const at::TensorImpl* impl, bool& missing) {
  const char* base = static_cast<const char*>(impl->unsafe_storage().data());
  missing |= base == nullptr;
  return base + offset_of(impl);
}

inline bool lacks_memory(const at::TensorImpl* impl) {
  return impl->numel() != 0 && impl->unsafe_storage().data() == nullptr;
}

// A tensor's dispatch keys (kind of device, layout, subclass), type, place among the devices, sizes and strides.
// Inlined for certain: it runs several times for every parameter in every step.
__attribute__((always_inline)) inline void add(Fingerprint& fingerprint, const at::TensorImpl* impl,
                                               const RefreshContext& context) {
  fingerprint.add(impl->key_set().raw_repr());
  uint64_t number = 0;
  if (context.number_of != nullptr || !has_plain_cpu_keys(impl)) {
    if (!has_plain_keys(impl)) return;
    bool missing = false;
    number = static_cast<uint64_t>(context.number_of != nullptr ? context.number_of(first_element_read(impl, missing))
                                                                : impl->device().index()) +
             1;
  }
  const bool is_contiguous = impl->is_contiguous();
  fingerprint.add(number << 17 | static_cast<uint64_t>(is_contiguous) << 16 |
                  static_cast<uint64_t>(impl->dtype().toScalarType()) << 8 | static_cast<uint64_t>(impl->dim()));
  for (const int64_t size : impl->sizes()) fingerprint.add(static_cast<uint64_t>(size));
  if (is_contiguous) return;  // and the sizes say the strides
  for (const int64_t stride : impl->strides()) fingerprint.add(static_cast<uint64_t>(stride));
}

inline void prefetch(const void* address) { __builtin_prefetch(address); }
inline void prefetch_tensor(const void* impl) {  // what is read of a TensorImpl reaches over three cache lines
  prefetch(impl);
  prefetch(static_cast<const char*>(impl) + 64);
  prefetch(static_cast<const char*>(impl) + sizeof(at::TensorImpl) - 1);
}
// Counting up a version is an atomic addition, which nothing behind it overtakes: its line, too, had better be there.
inline void prefetch_version(const at::TensorImpl* impl) {
  static_assert(sizeof(c10::VariableVersion) == sizeof(void*));  // a pointer to the number
  __builtin_prefetch(*reinterpret_cast<const void* const*>(&impl->version_counter()), /*write=*/1);
}

}  // namespace torchclip
