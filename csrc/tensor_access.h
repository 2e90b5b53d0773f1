// What the passes can reach of a torch tensor through its data pointer.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <utility>
#include <vector>

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
