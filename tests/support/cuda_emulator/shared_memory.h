// The variables that kernels declare __shared__: the thread-local storage of the module that this is linked into.
#pragma once

#include <cstddef>
#include <vector>

namespace emulator {

class SharedMemory {
 public:
  using Image = std::vector<unsigned char>;

  SharedMemory();   // lays aside what the host's code has there
  ~SharedMemory();  // and puts it back
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void poison();  // as a new block finds it
  void save(Image& image) const;
  void restore(const Image& image);

 private:
  unsigned char* begin_ = nullptr;
  size_t size_ = 0;
  Image host_;
};

}  // namespace emulator
