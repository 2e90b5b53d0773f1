// Functions of device code in which the lanes of a warp meet. Stricter than a GPU: a lane of the mask that has
// returned, or that the block does not have, is a fault too.
#pragma once

#include <cstring>

#include "machine.h"

namespace emulator {

template <class T>
T shuffle_value(unsigned mask, T value, int source, const Site& site) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, bits, source, site);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// The source lane, or the caller's own where that lies outside its segment of `width` lanes.
inline int within_segment(int source, int width) { return source / width == lane() / width ? source : lane(); }

}  // namespace emulator

#define EMULATOR_SHUFFLE(name, Operand, source)                                                                      \
  template <class T>                                                                                                 \
  T name(unsigned mask, T value, Operand operand, int width = 32, emulator::Site site = emulator::Site::current()) { \
    [[maybe_unused]] const int lane = emulator::lane(), first = lane / width * width;                                \
    return emulator::shuffle_value(mask, value, source, site);                                                       \
  }
EMULATOR_SHUFFLE(__shfl_sync, int, first + (operand & (width - 1)))
EMULATOR_SHUFFLE(__shfl_up_sync, unsigned,
                 lane - static_cast<int>(operand) < first ? lane : lane - static_cast<int>(operand))
EMULATOR_SHUFFLE(__shfl_down_sync, unsigned, emulator::within_segment(lane + static_cast<int>(operand), width))
EMULATOR_SHUFFLE(__shfl_xor_sync, int, emulator::within_segment(lane ^ operand, width))
#undef EMULATOR_SHUFFLE

inline void __syncwarp(unsigned mask = 0xffffffffu, emulator::Site site = emulator::Site::current()) {
  emulator::vote(mask, true, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::current()) {
  return emulator::vote(mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::current()) {
  return emulator::vote(mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::current()) {
  return emulator::vote(mask, predicate != 0, site) == mask;
}
