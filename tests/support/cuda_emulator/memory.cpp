#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(0)
#endif

namespace emulator {
namespace {

constexpr size_t kAlignment = 256;  // of cudaMalloc
constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xa5;
constexpr size_t kQuarantine = size_t{64} << 20;  // bytes that stay poisoned after they are freed

struct Extent {
  unsigned char* base;
  size_t bytes;  // of the user

  size_t total() const { return (kGuard + bytes + kGuard + kAlignment - 1) / kAlignment * kAlignment; }
  unsigned char* begin() const { return base + kGuard; }
  unsigned char* end() const { return begin() + bytes; }
  unsigned char* limit() const { return base + total(); }
};

std::map<void*, Extent>& live() {
  static auto& extents = *new std::map<void*, Extent>;  // never destroyed: to LeakSanitizer what it holds is in use
  return extents;
}

#if defined(__SANITIZE_ADDRESS__)
bool is_whole(const Extent&) { return true; }  // the guards cannot be read either
#else
bool is_whole(const Extent& extent) {
  const auto is_guard = [](unsigned char byte) { return byte == kGuardByte; };
  return std::all_of(extent.base, extent.begin(), is_guard) && std::all_of(extent.end(), extent.limit(), is_guard);
}
#endif

void quarantine(const Extent& extent) {
  static auto& freed = *new std::deque<Extent>;
  static size_t total = 0;
  memset(extent.begin(), kPoison, extent.bytes);
  ASAN_POISON_MEMORY_REGION(extent.base, extent.total());
  freed.push_back(extent);
  for (total += extent.total(); total > kQuarantine; freed.pop_front()) {
    total -= freed.front().total();
    ASAN_UNPOISON_MEMORY_REGION(freed.front().base, freed.front().total());
    std::free(freed.front().base);
  }
}

}  // namespace

void* allocate(size_t bytes) {
  Extent extent{nullptr, bytes};
  extent.base = static_cast<unsigned char*>(std::aligned_alloc(kAlignment, extent.total()));
  if (extent.base == nullptr) return nullptr;
  memset(extent.base, kGuardByte, extent.total());
  memset(extent.begin(), kPoison, bytes);
  ASAN_POISON_MEMORY_REGION(extent.base, kGuard);
  ASAN_POISON_MEMORY_REGION(extent.end(), extent.limit() - extent.end());
  live().emplace(extent.begin(), extent);
  return extent.begin();
}

bool release(void* pointer) {
  const auto found = live().find(pointer);
  if (found == live().end()) return false;
  quarantine(found->second);
  live().erase(found);
  return true;
}

std::string broken_guard() {
  for (const auto& [pointer, extent] : live()) {
    if (is_whole(extent)) continue;
    memset(extent.base, kGuardByte, kGuard);  // reported once
    memset(extent.end(), kGuardByte, extent.limit() - extent.end());
    return "something was written just outside " + std::to_string(extent.bytes) + " bytes of device memory";
  }
  return {};
}

int64_t live_allocations() { return static_cast<int64_t>(live().size()); }

}  // namespace emulator
