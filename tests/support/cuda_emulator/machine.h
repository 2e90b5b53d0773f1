// Shared by the machine's own files: the settings of emulator/control.h, and the errors that are waiting to be asked
// for.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "emulator/control.h"
#include "emulator/errors.h"
#include "emulator/host.h"

namespace emulator {

struct Settings {
  EmulatorOrder order = kEmulatorAscending;
  uint64_t seed = 0;
  int multiprocessors = 4;
  int blocks_per_multiprocessor = 2;
  int devices = 1;
  int64_t cache_bytes = int64_t{1} << 20;
  int capability_major = 9, capability_minor = 0;
  int driver_version = CUDART_VERSION;
  std::string report;
  int64_t launches = 0, early_launches = 0;
};
Settings& settings();

// Positions 0 to count - 1 in the order of the settings.
std::vector<uint32_t> arranged(size_t count, std::mt19937_64& random);

// The error that a test has asked for, else cudaSuccess. Every call of the kind asks once.
cudaError_t injected(EmulatorCall call);
// Keeps an error for cudaGetLastError(), and returns it.
cudaError_t record(cudaError_t error);
int current_device();
void make_current(int device);
// On the device that is current.
void count_launch();
int64_t wide_reads();
// cudaSuccess when a launch of this shape can run on the device of the settings.
cudaError_t admissible(const Configuration& configuration, const void* kernel);

}  // namespace emulator
