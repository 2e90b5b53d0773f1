// Tells a tensor's kind and geometry from another's.
#pragma once

#include <cstdint>

namespace torchclip {

// A polynomial hash. The powers do not wait for the numbers, so it takes a few cycles.
class Fingerprint {
 public:
  __attribute__((always_inline)) void add(uint64_t number) {
    sum_ += (number + 1) * power_;
    power_ *= 0x9e3779b97f4a7c15ull;
  }
  uint64_t value() const { return sum_ ^ (sum_ >> 32); }

 private:
  uint64_t sum_ = 0;
  uint64_t power_ = 0xbf58476d1ce4e5b9ull;
};

}  // namespace torchclip
