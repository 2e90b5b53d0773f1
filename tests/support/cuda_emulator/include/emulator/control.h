// What tests set and read. Exported with C names, so that ctypes reaches them in an extension module too.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// Which thread of a block, and which block of a grid, runs next. TORCHCLIP_EMULATOR_ORDER sets it as well: "ascending",
// "descending", "shuffled" or "shuffled:SEED". Shuffled also takes turns between two blocks, at their
// barriers and behind atomic operations.
enum EmulatorOrder { kEmulatorAscending, kEmulatorDescending, kEmulatorShuffled };
void torchclip_emulator_set_order(EmulatorOrder order, uint64_t seed);

// After `successes` more calls of the kind, the next one fails with the code, once; a code of 0 takes that back.
enum EmulatorCall {
  kEmulatorLaunch,
  kEmulatorAllocate,
  kEmulatorCopy,
  kEmulatorSynchronize,
  kEmulatorCountDevices,
  kEmulatorSetDevice,
  kEmulatorDeviceAttribute,
  kEmulatorKernelAttributes,  // and the occupancy of a kernel
  kEmulatorCalls
};
void torchclip_emulator_fail(EmulatorCall call, int code, int successes);

// The size of every device: results must not depend on it.
void torchclip_emulator_set_device(int multiprocessors, int blocks_per_multiprocessor);
void torchclip_emulator_set_cache_bytes(int64_t bytes);  // of the second-level cache; 1 MiB at first

void torchclip_emulator_set_capability(int major, int minor);  // 9.0 at first

// CUDA's numbers: 12040 is 12.4. The runtime is 13.0, and so is the driver at first; 0 stands for a missing driver.
void torchclip_emulator_set_driver_version(int version);

// How many devices there are: one at first. Device 0 is current again, and every placement is forgotten.
void torchclip_emulator_set_devices(int count);
// Declares that the tensor whose first byte is here lies on a device. What was never placed lies on device 0.
void torchclip_emulator_place(const void* first_byte, int device);
int torchclip_emulator_device_of(const void* first_byte);
int torchclip_emulator_current_device();

// A graph. Between begin and end, launches, copies and fills are recorded with their arguments and not run, and calls
// that would synchronise or allocate fail and spoil the capture, as they do on a device.
void torchclip_emulator_begin_capture();
int64_t torchclip_emulator_end_capture();  // how many were recorded; -1 when the capture was spoilt
int torchclip_emulator_replay();           // runs the last graph; the error of the node at which it stopped, else 0

// What the last failed launch did wrong, in words; empty when none has failed.
const char* torchclip_emulator_report();

// For counting: launches that ran, on all devices and on one, and live device allocations.
int64_t torchclip_emulator_launches();
int64_t torchclip_emulator_launches_on(int device);
int64_t torchclip_emulator_early_launches();  // those that might begin before the one in front of them had ended
int64_t torchclip_emulator_wide_reads();      // of 16 bytes
int64_t torchclip_emulator_allocations();
}
#pragma GCC visibility pop
