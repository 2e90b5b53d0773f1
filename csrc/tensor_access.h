// What the passes can reach of a torch tensor through its data pointer.
#pragma once

#include <ATen/core/Tensor.h>

#include "tables.h"

namespace torchclip {

// False for a type that no pass computes with.
inline bool storage_dtype(const at::Tensor& tensor, DType& dtype) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      dtype = DType::kFloat32;
      return true;
    case at::kDouble:
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

// A tensor whose elements can be read and written through its data pointer on the CPU: not sparse, not a wrapper
// subclass such as DTensor, not a lazily negated view.
inline bool is_plain_cpu(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided &&
         !tensor.unsafeGetTensorImpl()->is_python_dispatch() && !tensor.is_neg();
}

// Two elements share memory, as in an expanded tensor: such a tensor can be read and not be written.
inline bool writes_overlap(at::IntArrayRef sizes, at::IntArrayRef strides) {
  for (size_t dimension = 0; dimension < sizes.size(); ++dimension)
    if (strides[dimension] == 0 && sizes[dimension] > 1) return true;
  return false;
}

// Equal strides wherever a dimension has more than one element.
inline bool same_walk(at::IntArrayRef sizes, at::IntArrayRef a, at::IntArrayRef b) {
  for (size_t dimension = 0; dimension < sizes.size(); ++dimension)
    if (sizes[dimension] > 1 && a[dimension] != b[dimension]) return false;
  return true;
}

}  // namespace torchclip
