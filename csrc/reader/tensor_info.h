// How the passes walk what a tensor holds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "reader.h"

namespace torchclip {

// The type of the numbers that a tensor holds: of a complex one, that of both parts. False for a type that no pass
// computes with.
inline bool storage_dtype(ElementType type, DType& dtype) {
  const int parts = type.code == ElementType::kComplex ? 2 : 1;
  if (type.code == ElementType::kBfloat && type.bits == 16) {
    dtype = DType::kBFloat16;
  } else if (type.code != ElementType::kFloat && type.code != ElementType::kComplex) {
    return false;
  } else if (type.bits == 32 * parts) {
    dtype = DType::kFloat32;
  } else if (type.bits == 64 * parts) {
    dtype = DType::kFloat64;
  } else if (type.bits == 16 && parts == 1) {
    dtype = DType::kFloat16;
  } else {
    return false;
  }
  return true;
}

// A number that a pass or a finish reads beside the elements.
inline bool holds_floats(const TensorInfo& tensor) { return tensor.type == kFloatType || tensor.type == kDoubleType; }

// A complex tensor is walked as its real view: what at::view_as_real would say of it, with two numbers for each element
// along a dimension inside all others.
inline bool is_complex(const TensorInfo& tensor) { return tensor.type.code == ElementType::kComplex; }
inline int64_t parts_of(const TensorInfo& tensor) { return is_complex(tensor) ? 2 : 1; }
inline int64_t count_of(const TensorInfo& tensor) { return tensor.numel * parts_of(tensor); }
inline std::vector<int64_t> sizes_of(const TensorInfo& tensor) {
  std::vector<int64_t> sizes(tensor.sizes, tensor.sizes + tensor.dim);
  if (is_complex(tensor)) sizes.push_back(2);
  return sizes;
}
inline std::vector<int64_t> strides_of(const TensorInfo& tensor) {
  std::vector<int64_t> strides(tensor.strides, tensor.strides + tensor.dim);
  for (int64_t& stride : strides) stride *= parts_of(tensor);
  if (is_complex(tensor)) strides.push_back(1);
  return strides;
}

inline bool same_sizes(const TensorInfo& a, const TensorInfo& b) {
  return a.dim == b.dim && std::equal(a.sizes, a.sizes + a.dim, b.sizes);
}

// Dimensions of more than one element by their strides, the smallest first: (stride, size). Empty without elements.
inline std::vector<std::pair<int64_t, int64_t>> steps_of(const TensorInfo& tensor) {
  std::vector<std::pair<int64_t, int64_t>> steps;
  if (tensor.numel == 0) return steps;
  for (int32_t dimension = 0; dimension < tensor.dim; ++dimension)
    if (tensor.sizes[dimension] > 1) steps.emplace_back(tensor.strides[dimension], tensor.sizes[dimension]);
  std::sort(steps.begin(), steps.end());
  return steps;
}

// Two elements may share memory, as in an expanded tensor: such a tensor can be read and not be written. Going by the
// strides from the smallest up, every dimension must step over all that the smaller ones reach.
inline bool writes_overlap(const TensorInfo& tensor) {
  int64_t reach = 0;
  for (const auto& [stride, size] : steps_of(tensor)) {
    if (stride <= reach) return true;
    reach += stride * (size - 1);
  }
  return false;
}

// The elements lie one after the other, in some order of the dimensions.
inline bool is_dense(const TensorInfo& tensor) {
  int64_t expected = 1;
  for (const auto& [stride, size] : steps_of(tensor)) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// In the order of the dimensions themselves.
inline bool is_contiguous(const TensorInfo& tensor) {
  int64_t expected = 1;
  for (int32_t dimension = tensor.dim; tensor.numel != 0 && dimension-- > 0;) {
    if (tensor.sizes[dimension] != 1 && tensor.strides[dimension] != expected) return false;
    expected *= tensor.sizes[dimension];
  }
  return true;
}

// The elements of both, walked from the innermost dimension of one to its outermost, come in the same order.
inline bool same_order(const TensorInfo& a, const TensorInfo& b) {
  for (int32_t i = 0; i < a.dim; ++i)
    for (int32_t j = 0; j < i; ++j)
      if (a.sizes[i] > 1 && a.sizes[j] > 1 && (a.strides[i] < a.strides[j]) != (b.strides[i] < b.strides[j]))
        return false;
  return true;
}

// Equal strides wherever a dimension has more than one element; the sizes are the same.
inline bool same_walk(const TensorInfo& a, const TensorInfo& b) {
  for (int32_t dimension = 0; dimension < a.dim; ++dimension)
    if (a.sizes[dimension] > 1 && a.strides[dimension] != b.strides[dimension]) return false;
  return true;
}

}  // namespace torchclip
