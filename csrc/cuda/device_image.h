// Tables in device memory, beside a copy of what was last written there: what has not changed is not written again.
#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <vector>

#include "passes.h"

namespace torchclip::cuda {

// Where a table of some type begins in an image.
template <class T>
struct Section {
  int64_t offset = 0;
  int64_t count = 0;
};

class DeviceImage {
 public:
  // Makes room for a table; all of them before allocate().
  template <class T>
  Section<T> reserve(size_t count) {
    const Section<T> section{bytes(), static_cast<int64_t>(count)};
    const size_t wanted = host_.size() + count * sizeof(T);
    host_.resize((wanted + kAlignment - 1) / kAlignment * kAlignment);
    return section;
  }
  // The memory holds nothing yet.
  void allocate(c10::Device device) {
    memory_ = at::empty({bytes()}, at::TensorOptions().dtype(at::kByte).device(device));
    written_ = false;
  }
  template <class T>
  T* at(Section<T> section) const {
    return reinterpret_cast<T*>(static_cast<char*>(memory_.data_ptr()) + section.offset);
  }

  // A step is captured: from now on replays write here too, unseen.
  void share_with_graph() { is_shared_ = true; }
  const at::Tensor& memory() const { return memory_; }

  // Sets a table, and writes it to the device where it differs from what is there. `changes_by_step`: a graph may have
  // been captured with other values than the next step has, as it has with other gradients.
  template <class T>
  void set(Section<T> section, const T* values, void* stream, bool changes_by_step = false) {
    if (section.count == 0) return;
    char* const place = host_.data() + section.offset;
    const size_t size = static_cast<size_t>(section.count) * sizeof(T);
    const bool may_differ = changes_by_step && is_shared_;
    if (written_ && !may_differ && std::memcmp(place, values, size) == 0) return;
    std::memcpy(place, values, size);
    if (written_) upload(at(section), place, static_cast<int64_t>(size), stream);
  }
  template <class T>
  void set(Section<T> section, const std::vector<T>& values, void* stream, bool changes_by_step = false) {
    set(section, values.data(), stream, changes_by_step);
  }
  // Writes all that was set since allocate() in one go.
  void write(void* stream) {
    if (written_) return;
    upload(memory_.data_ptr(), host_.data(), bytes(), stream);
    written_ = true;
  }

 private:
  static constexpr size_t kAlignment = 16;
  int64_t bytes() const { return static_cast<int64_t>(host_.size()); }

  std::vector<char> host_;
  at::Tensor memory_;
  bool written_ = false;
  bool is_shared_ = false;
};

}  // namespace torchclip::cuda
