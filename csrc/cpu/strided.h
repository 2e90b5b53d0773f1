// Copies runs of elements between a strided tensor and a dense buffer, so that the loops see dense memory alone.
#pragma once

#include <cstring>

#include "../step/tables.h"

namespace torchclip::cpu {

// Walks the offsets, in elements, of one operand from element number `begin` on.
class StridedWalk {
 public:
  StridedWalk(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, int64_t begin)
      : sizes_(sizes), strides_(strides), index_(sizes.size()) {
    for (size_t dimension = sizes.size(); dimension-- > 0;) {
      index_[dimension] = begin % sizes[dimension];
      begin /= sizes[dimension];
      offset_ += index_[dimension] * strides[dimension];
    }
  }
  int64_t offset() const { return offset_; }
  void next() {
    for (size_t dimension = sizes_.size(); dimension-- > 0;) {
      offset_ += strides_[dimension];
      if (++index_[dimension] < sizes_[dimension]) return;
      offset_ -= index_[dimension] * strides_[dimension];
      index_[dimension] = 0;
    }
  }

 private:
  const std::vector<int64_t>& sizes_;
  const std::vector<int64_t>& strides_;
  std::vector<int64_t> index_;
  int64_t offset_ = 0;
};

// `element` is the size of an element in bytes.
inline void gather(const char* tensor, StridedWalk walk, int64_t count, int64_t element, char* dense) {
  for (int64_t i = 0; i < count; ++i, walk.next())
    std::memcpy(dense + i * element, tensor + walk.offset() * element, static_cast<size_t>(element));
}
inline void scatter(const char* dense, StridedWalk walk, int64_t count, int64_t element, char* tensor) {
  for (int64_t i = 0; i < count; ++i, walk.next())
    std::memcpy(tensor + walk.offset() * element, dense + i * element, static_cast<size_t>(element));
}

}  // namespace torchclip::cpu
