#include "shared_memory.h"

#include <link.h>

#include <cstdint>
#include <cstring>

#include "memory.h"

namespace emulator {
namespace {

// So that the module has thread-local storage, and has it in this thread, even where no kernel shares a variable.
thread_local volatile unsigned char anchor;

struct Region {
  unsigned char* begin;
  size_t size;
};

int visit_module(dl_phdr_info* info, size_t, void* result) {
  const auto here = reinterpret_cast<uintptr_t>(&visit_module);
  bool contains_here = false;
  size_t size = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_LOAD && here >= begin && here - begin < segment.p_memsz) contains_here = true;
    if (segment.p_type == PT_TLS) size = segment.p_memsz;
  }
  if (!contains_here) return 0;
  *static_cast<Region*>(result) = {static_cast<unsigned char*>(info->dlpi_tls_data), size};
  return 1;
}

}  // namespace

SharedMemory::SharedMemory() {
  anchor = 0;
  Region region{};
  dl_iterate_phdr(visit_module, &region);
  begin_ = region.begin;
  size_ = region.begin == nullptr ? 0 : region.size;
  save(host_);
}

SharedMemory::~SharedMemory() { restore(host_); }

void SharedMemory::poison() { memset(begin_, kPoison, size_); }
void SharedMemory::save(Image& image) const { image.assign(begin_, begin_ + size_); }
void SharedMemory::restore(const Image& image) {
  if (!image.empty()) memcpy(begin_, image.data(), size_);
}

}  // namespace emulator
