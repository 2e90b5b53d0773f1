// Device memory: apart from the host's heap, between guard zones, and never holding zeros by chance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

constexpr unsigned char kPoison = 0xff;  // a NaN in every floating-point type, and a count far too large

void* allocate(size_t bytes);
bool release(void* pointer);  // false when the pointer is not one that allocate() gave, or is released already
// In words, a guard zone that has been written to; empty when all are whole. AddressSanitizer stops at the write
// itself.
std::string broken_guard();
int64_t live_allocations();

}  // namespace emulator
