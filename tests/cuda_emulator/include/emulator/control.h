// What tests set and read. Exported with C names, so that ctypes reaches them in an extension module too.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// Which thread of a block, and which block of a grid, runs next. TORCHCLIP_EMULATOR_ORDER sets it as well: "ascending",
// "descending", "shuffled" or "shuffled:SEED". Shuffled also takes turns between two blocks at their barriers.
enum EmulatorOrder { kEmulatorAscending, kEmulatorDescending, kEmulatorShuffled };
void torchclip_emulator_set_order(EmulatorOrder order, uint64_t seed);

// After `successes` more calls of the kind, the next one fails with the code, once.
enum EmulatorCall { kEmulatorLaunch, kEmulatorAllocate, kEmulatorCopy, kEmulatorSynchronize, kEmulatorCalls };
void torchclip_emulator_fail(EmulatorCall call, int code, int successes);

// The device's size: results must not depend on it.
void torchclip_emulator_set_device(int multiprocessors, int blocks_per_multiprocessor);

// While a graph is captured, calls that would synchronise or allocate fail, as they do on a device.
void torchclip_emulator_set_capturing(bool capturing);

// What the last failed launch did wrong, in words; empty when none has failed.
const char* torchclip_emulator_report();

// Launches and live device allocations, for counting.
int64_t torchclip_emulator_launches();
int64_t torchclip_emulator_allocations();
}
#pragma GCC visibility pop
