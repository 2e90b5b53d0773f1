#include "emulator/control.h"

#include <cstdlib>
#include <stdexcept>

#include "machine.h"
#include "memory.h"

namespace emulator {
namespace {

struct Injection {
  int code = 0;
  int successes = 0;
};
Injection injections[kEmulatorCalls];

void read_order(Settings& result) {
  const char* const text = std::getenv("TORCHCLIP_EMULATOR_ORDER");
  if (text == nullptr) return;
  const std::string order = text;
  if (order == "descending") {
    result.order = kEmulatorDescending;
  } else if (order.starts_with("shuffled")) {
    result.order = kEmulatorShuffled;
    if (order.size() > 9) result.seed = std::stoull(order.substr(9));
  } else if (order != "ascending") {
    throw std::invalid_argument("TORCHCLIP_EMULATOR_ORDER=" + order + " is not ascending, descending or shuffled:SEED");
  }
}

}  // namespace

Settings& settings() {
  static Settings result = [] {
    Settings first;
    read_order(first);
    return first;
  }();
  return result;
}

cudaError_t injected(EmulatorCall call) {
  Injection& injection = injections[call];
  if (injection.code == 0 || injection.successes-- > 0) return cudaSuccess;
  const auto error = static_cast<cudaError_t>(injection.code);
  injection = {};
  return error;
}

}  // namespace emulator

using emulator::settings;

void torchclip_emulator_set_order(EmulatorOrder order, uint64_t seed) {
  settings().order = order;
  settings().seed = seed;
}

void torchclip_emulator_fail(EmulatorCall call, int code, int successes) {
  emulator::injections[call] = {code, successes};
}

void torchclip_emulator_set_device(int multiprocessors, int blocks_per_multiprocessor) {
  settings().multiprocessors = multiprocessors;
  settings().blocks_per_multiprocessor = blocks_per_multiprocessor;
}

void torchclip_emulator_set_cache_bytes(int64_t bytes) { settings().cache_bytes = bytes; }
void torchclip_emulator_set_capability(int major, int minor) {
  settings().capability_major = major;
  settings().capability_minor = minor;
}
void torchclip_emulator_set_driver_version(int version) { settings().driver_version = version; }

const char* torchclip_emulator_report() { return settings().report.c_str(); }
int64_t torchclip_emulator_launches() { return settings().launches; }
int64_t torchclip_emulator_early_launches() { return settings().early_launches; }
int64_t torchclip_emulator_wide_reads() { return emulator::wide_reads(); }
int64_t torchclip_emulator_allocations() { return emulator::live_allocations(); }
