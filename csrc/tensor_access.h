// What the passes can reach of a torch tensor through its data pointer.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "step/place.h"
#include "tables.h"

namespace torchclip {

// The type of the numbers that a tensor holds: of a complex one, that of both parts. False for a type that no pass
// computes with.
inline bool storage_dtype(const at::Tensor& tensor, DType& dtype) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
    case at::kComplexFloat:
      dtype = DType::kFloat32;
      return true;
    case at::kDouble:
    case at::kComplexDouble:
      dtype = DType::kFloat64;
      return true;
    case at::kBFloat16:
      dtype = DType::kBFloat16;
      return true;
    case at::kHalf:
      dtype = DType::kFloat16;
      return true;
    default:
      return false;
  }
}

// A complex tensor is walked as its real view: what at::view_as_real would say of it, with two numbers for each element
// along a dimension inside all others.
inline int64_t parts_of(const at::Tensor& tensor) { return tensor.is_complex() ? 2 : 1; }
inline int64_t count_of(const at::Tensor& tensor) { return tensor.numel() * parts_of(tensor); }
inline std::vector<int64_t> sizes_of(const at::Tensor& tensor) {
  std::vector<int64_t> sizes = tensor.sizes().vec();
  if (tensor.is_complex()) sizes.push_back(2);
  return sizes;
}
inline std::vector<int64_t> strides_of(const at::Tensor& tensor) {
  std::vector<int64_t> strides = tensor.strides().vec();
  for (int64_t& stride : strides) stride *= parts_of(tensor);
  if (tensor.is_complex()) strides.push_back(1);
  return strides;
}

// Going by its dispatch keys: a dense tensor, not sparse or nested, and none that stands for others: a wrapper subclass
// such as DTensor, what torch.func's transforms see of a tensor, a lazily negated or conjugated view, or zeros that
// have no memory. Of every other tensor even the sizes and strides may throw.
constexpr c10::DispatchKeySet kDenseKey(c10::DispatchKey::Dense);
constexpr c10::DispatchKeySet kKeysOfOthers({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot,
                                             c10::DispatchKey::Functionalize, c10::DispatchKey::FuncTorchGradWrapper,
                                             c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::BatchedNestedTensor,
                                             c10::DispatchKey::Batched, c10::DispatchKey::Conjugate,
                                             c10::DispatchKey::Negative, c10::DispatchKey::ZeroTensor});
inline bool has_plain_keys(const c10::TensorImpl* impl) {
  return (impl->key_set() & (kDenseKey | kKeysOfOthers)) == kDenseKey;
}
// The same of one that lies on the CPU, at the cost of one comparison.
inline bool has_plain_cpu_keys(const c10::TensorImpl* impl) {
  constexpr c10::DispatchKeySet kCpu(c10::BackendComponent::CPUBit);
  return (impl->key_set() & (kDenseKey | kKeysOfOthers | kCpu)) == (kDenseKey | kCpu);
}

// A tensor whose elements can be read and written through its data pointer on a device of that type.
inline bool is_plain(const at::Tensor& tensor, c10::DeviceType device) {
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  return has_plain_keys(impl) && impl->has_storage() && tensor.device().type() == device &&
         tensor.layout() == at::kStrided;
}

// Its memory has been freed, as FSDP frees that of parameters it has gathered: untyped_storage().resize_(0).
inline bool lacks_memory(const at::Tensor& plain) {
  return plain.numel() != 0 && plain.unsafeGetTensorImpl()->unsafe_storage().data() == nullptr;
}

// Tells one tensor's kind and geometry from another's: a polynomial hash of its dispatch keys (kind of device,
// layout, subclass), type, place among the devices, sizes and strides. The powers do not wait for the numbers, so it
// takes a few cycles.
class Fingerprint {
 public:
  // Inlined for certain: it runs several times for every parameter in every step.
  __attribute__((always_inline)) void add(const at::Tensor& tensor) {
    const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
    add(impl->key_set().raw_repr());
    uint64_t number = 0;
    if (kCpuHasNumbers || !has_plain_cpu_keys(impl)) {
      if (!has_plain_keys(impl)) return;
      number = static_cast<uint64_t>(place_of(tensor).number) + 1;
    }
    const bool is_contiguous = impl->is_contiguous();
    add(number << 17 | static_cast<uint64_t>(is_contiguous) << 16 |
        static_cast<uint64_t>(impl->dtype().toScalarType()) << 8 | static_cast<uint64_t>(impl->dim()));
    for (const int64_t size : impl->sizes()) add(static_cast<uint64_t>(size));
    if (is_contiguous) return;  // and the sizes say the strides
    for (const int64_t stride : impl->strides()) add(static_cast<uint64_t>(stride));
  }
  void add(uint64_t number) {
    sum_ += (number + 1) * power_;
    power_ *= 0x9e3779b97f4a7c15ull;
  }
  uint64_t value() const { return sum_ ^ (sum_ >> 32); }

 private:
  uint64_t sum_ = 0;
  uint64_t power_ = 0xbf58476d1ce4e5b9ull;
};

// The address of the first element of a tensor that has been found plain. at::Tensor's own accessors go through a
// virtual call and a check of the type, which add up over a thousand tensors. `missing` becomes true where there is no
// memory, as of a tensor without elements.
__attribute__((always_inline)) inline void* first_element(const at::Tensor& tensor, bool& missing) {
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  char* base = static_cast<char*>(impl->unsafe_storage().mutable_data());
  missing |= base == nullptr;
  return base + impl->storage_offset() * static_cast<int64_t>(impl->itemsize());
}
// The same of a tensor that is only read: memory that a lazy clone shares stays shared.
__attribute__((always_inline)) inline const void* first_element_read(const at::Tensor& tensor, bool& missing) {
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  const char* base = static_cast<const char*>(impl->unsafe_storage().data());
  missing |= base == nullptr;
  return base + impl->storage_offset() * static_cast<int64_t>(impl->itemsize());
}

// Two elements may share memory, as in an expanded tensor: such a tensor can be read and not be written. Going by the
// strides from the smallest up, every dimension must step over all that the smaller ones reach.
inline bool writes_overlap(at::IntArrayRef sizes, at::IntArrayRef strides) {
  std::vector<std::pair<int64_t, int64_t>> dimensions;  // stride, size
  for (size_t dimension = 0; dimension < sizes.size(); ++dimension) {
    if (sizes[dimension] == 0) return false;
    if (sizes[dimension] > 1) dimensions.emplace_back(strides[dimension], sizes[dimension]);
  }
  std::sort(dimensions.begin(), dimensions.end());
  int64_t reach = 0;
  for (const auto& [stride, size] : dimensions) {
    if (stride <= reach) return true;
    reach += stride * (size - 1);
  }
  return false;
}

// Equal strides wherever a dimension has more than one element.
inline bool same_walk(at::IntArrayRef sizes, at::IntArrayRef a, at::IntArrayRef b) {
  for (size_t dimension = 0; dimension < sizes.size(); ++dimension)
    if (sizes[dimension] > 1 && a[dimension] != b[dimension]) return false;
  return true;
}

}  // namespace torchclip
