#include "machine.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include "emulator/host.h"
#include "emulator/machine.h"
#include "graph.h"
#include "grid.h"
#include "memory.h"

namespace emulator {
namespace {

constexpr size_t kSharedBytes = 48 << 10;          // of a block, without asking
constexpr size_t kLargestSharedBytes = 227 << 10;  // after cudaFuncSetAttribute
constexpr unsigned kThreadsOfBlock = 1024;
constexpr int kThreadsOfMultiprocessor = 2048;

std::unique_ptr<Grid> grid;  // of the launch in progress
std::atomic<int64_t> reads_of_16_bytes = 0;

std::map<const void*, size_t>& allowed_shared() {
  static std::map<const void*, size_t> bytes;
  return bytes;
}

// Since they were last asked for.
std::set<const void*>& launched() {
  static std::set<const void*> kernels;
  return kernels;
}

// Of a multiprocessor.
int resident_blocks(int block_size) {
  return std::min(settings().blocks_per_multiprocessor, kThreadsOfMultiprocessor / block_size);
}

cudaError_t run_now(const Configuration& configuration, const char* name, const std::function<void()>& body) {
  count_launch();
  settings().early_launches += configuration.kind == Kind::kEarly;
  grid = std::make_unique<Grid>(configuration, body);
  grid->run();
  std::string report = grid->report();
  cudaError_t error = grid->error();
  grid.reset();
  const std::string broken = broken_guard();
  if (error == cudaSuccess && !broken.empty()) {
    error = cudaErrorIllegalAddress;
    report = broken;
  }
  if (error != cudaSuccess) {
    settings().report = "kernel " + std::string(name) + ", launched at " + place(configuration.site) + "\n" + report;
    fprintf(stderr, "cuda emulator: %s\n", settings().report.c_str());
  }
  return record(error);
}

}  // namespace

std::vector<uint32_t> arranged(size_t count, std::mt19937_64& random) {
  std::vector<uint32_t> result(count);
  std::iota(result.begin(), result.end(), 0u);
  if (settings().order == kEmulatorDescending) std::reverse(result.begin(), result.end());
  if (settings().order == kEmulatorShuffled) std::shuffle(result.begin(), result.end(), random);
  return result;
}

cudaError_t admissible(const Configuration& c, const void* kernel) {
  const auto among = [](unsigned size, unsigned most) { return size >= 1 && size <= most; };
  const bool grid_fits = among(c.grid.x, 0x7fffffffu) && among(c.grid.y, 65535) && among(c.grid.z, 65535);
  const bool block_fits = among(c.block.x, 1024) && among(c.block.y, 1024) && among(c.block.z, 64);
  const uint64_t threads = static_cast<uint64_t>(c.block.x) * c.block.y * c.block.z;
  if (!grid_fits || !block_fits || threads > kThreadsOfBlock) return cudaErrorInvalidConfiguration;
  const auto allowed = allowed_shared().find(kernel);
  if (c.shared_bytes > (allowed == allowed_shared().end() ? kSharedBytes : allowed->second))
    return cudaErrorInvalidValue;
  const auto resident = static_cast<uint64_t>(resident_blocks(static_cast<int>(threads))) * settings().multiprocessors;
  if (c.kind == Kind::kCooperative && static_cast<uint64_t>(c.grid.x) * c.grid.y * c.grid.z > resident)
    return cudaErrorCooperativeLaunchTooLarge;
  return cudaSuccess;
}

cudaError_t occupancy(int* blocks, int block_size, size_t shared_bytes) {
  const cudaError_t error = injected(kEmulatorKernelAttributes);
  if (error != cudaSuccess) return record(error);
  if (block_size < 1 || shared_bytes > kLargestSharedBytes) return record(cudaErrorInvalidValue);
  *blocks = resident_blocks(block_size);
  return cudaSuccess;
}

cudaError_t allow_shared(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > kLargestSharedBytes) return record(cudaErrorInvalidValue);
  allowed_shared()[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t attributes(cudaFuncAttributes* result) {
  *result = {};
  const cudaError_t error = injected(kEmulatorKernelAttributes);
  if (error != cudaSuccess) return record(error);
  result->maxThreadsPerBlock = kThreadsOfBlock;
  result->numRegs = 32;
  result->maxDynamicSharedSizeBytes = kSharedBytes;
  return cudaSuccess;
}

cudaError_t run(const Configuration& configuration, const char* name, const void* kernel, std::function<void()> body) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  cudaError_t error = injected(kEmulatorLaunch);
  if (error == cudaSuccess) error = admissible(configuration, kernel);
  if (error != cudaSuccess) return record(error);
  launched().insert(kernel);
  return run_or_record([=, body = std::move(body)] { return run_now(configuration, name, body); });
}

// What device code calls.
void block_barrier(const Site& site) { grid->block_barrier(site); }
void grid_barrier(const Site& site) { grid->grid_barrier(site); }
bool is_cooperative() { return grid->is_cooperative(); }
int lane() { return grid->lane(); }
void fence() { grid->fence(); }
void wait_for_previous() { grid->wait_for_previous(); }
void count_wide_read() { reads_of_16_bytes.fetch_add(1, std::memory_order_relaxed); }
int64_t wide_reads() { return reads_of_16_bytes; }
void fetch(const void* from) { [[maybe_unused]] const char byte = *static_cast<const volatile char*>(from); }
void count_block(bool is_last, const Site& site) { grid->count_block(is_last, site); }
void yield() { grid->yield(); }
uint64_t shuffle(unsigned mask, uint64_t bits, int source, const Site& site) {
  return grid->meet_warp(Wait::kShuffle, mask, bits, source, site);
}
unsigned vote(unsigned mask, bool predicate, const Site& site) {
  return static_cast<unsigned>(grid->meet_warp(Wait::kVote, mask, predicate, 0, site));
}
void* dynamic_shared() { return grid->dynamic_shared(); }
void fault(cudaError_t error, const std::string& what, const Site& site) { grid->fault(error, what, site); }

}  // namespace emulator

// Not in control.h, which much is compiled with: writes the addresses of the kernels launched since the last call, as
// many as there is room for, and forgets them. Returns how many there are.
extern "C" __attribute__((visibility("default"))) int64_t torchclip_emulator_take_kernels(const void** into,
                                                                                          int64_t capacity) {
  const std::set<const void*> kernels = std::exchange(emulator::launched(), {});
  std::copy_n(kernels.begin(), std::min<int64_t>(capacity, static_cast<int64_t>(kernels.size())), into);
  return static_cast<int64_t>(kernels.size());
}
