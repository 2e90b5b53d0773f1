// Tables in device memory, beside a copy of what was last written there: what has not changed is not written again.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "buffer.h"

namespace torchclip {

// Where a table of some type begins in an image.
template <class T>
struct Section {
  int64_t offset = 0;
  int64_t count = 0;
};

// Bytes of an image, or of another piece of memory.
struct Extent {
  int64_t offset = 0;
  int64_t bytes = 0;
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
  // The memory holds nothing yet, and no graph knows of it.
  void allocate(const Device& device) {
    memory_ = Buffer::empty(bytes(), "uint8", device);
    written_ = is_shared_ = false;
    recorded_.clear();
    changed_.clear();
  }
  template <class T>
  T* at(Section<T> section) const {
    return reinterpret_cast<T*>(memory_.values<char>() + section.offset);
  }

  // `capturing`: replays read and write here too from now on, unseen.
  void begin_step(bool capturing) {
    capturing_ = capturing;
    is_shared_ |= capturing;
  }
  bool is_shared() const { return is_shared_; }
  const Buffer& memory() const { return memory_; }

  template <class T>
  bool differs(Section<T> section, const std::vector<T>& values) const {
    return section.count != 0 &&
           std::memcmp(host_.data() + section.offset, values.data(), values.size() * sizeof(T)) != 0;
  }

  // Sets a table; write() takes it to the device where it differs from what is there. `changes_by_step`: a graph may
  // have been captured with other values than the next step has, as it has with other gradients.
  template <class T>
  void set(Section<T> section, const T* values, bool changes_by_step = false) {
    if (section.count == 0) return;
    char* const place = host_.data() + section.offset;
    const size_t size = static_cast<size_t>(section.count) * sizeof(T);
    const bool may_differ = changes_by_step && is_shared_;
    const auto recorded = std::find(recorded_.begin(), recorded_.end(), section.offset);
    const bool is_there = written_ && recorded == recorded_.end();
    if (is_there && !may_differ && std::memcmp(place, values, size) == 0) return;
    std::memcpy(place, values, size);
    if (!written_) return;
    changed_.push_back({section.offset, static_cast<int64_t>(size)});
    if (capturing_ && is_there) recorded_.push_back(section.offset);
    if (!capturing_ && !is_there) recorded_.erase(recorded);
  }
  template <class T>
  void set(Section<T> section, const std::vector<T>& values, bool changes_by_step = false) {
    set(section, values.data(), changes_by_step);
  }
  // Writes what was set, by `upload(extent, from)`: everything at first, and later what has changed. `in_one`: with all
  // that lies between, in one piece.
  template <class Upload>
  void write(bool in_one, const Upload& upload) {
    if (!written_) {
      changed_ = {{0, bytes()}};
    } else if (in_one && changed_.size() > 1) {
      int64_t begin = bytes(), end = 0;
      for (const Extent& extent : changed_) {
        begin = std::min(begin, extent.offset);
        end = std::max(end, extent.offset + extent.bytes);
      }
      changed_ = {{begin, end - begin}};
    }
    for (const Extent& extent : changed_) upload(extent, host_.data() + extent.offset);
    changed_.clear();
    written_ = true;
  }

 private:
  static constexpr size_t kAlignment = 16;
  int64_t bytes() const { return static_cast<int64_t>(host_.size()); }

  std::vector<char> host_;
  Buffer memory_;
  bool written_ = false;
  bool is_shared_ = false;
  bool capturing_ = false;
  std::vector<Extent> changed_;    // since write()
  std::vector<int64_t> recorded_;  // offsets of the sections that a graph is to write, which has not been replayed yet
};

}  // namespace torchclip
