#include "grid.h"

#include <algorithm>
#include <cstring>

#include "emulator/machine.h"
#include "machine.h"
#include "memory.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {
namespace {

constexpr uint64_t kMostRests = 16;  // rounds: the last block has read what the others left by then

struct Abandoned {};  // thrown by the thread that has met a fault, up to the foot of its stack

Grid* current = nullptr;
std::vector<std::unique_ptr<Fiber>> idle_fibers;

void fiber_job() { current->run_thread(); }

size_t count(dim3 size) { return static_cast<size_t>(size.x) * size.y * size.z; }

uint3 index_in(dim3 size, size_t position) {
  return {static_cast<unsigned>(position % size.x), static_cast<unsigned>(position / size.x % size.y),
          static_cast<unsigned>(position / size.x / size.y)};
}

}  // namespace

Block::Block(uint3 block_index, dim3 size, size_t shared_bytes)
    : index(block_index), threads(count(size)), dynamic_shared(new unsigned char[shared_bytes]) {
  for (size_t i = 0; i < threads.size(); ++i) threads[i].index = index_in(size, i);
  memset(dynamic_shared.get(), kPoison, shared_bytes);
}

Grid::Grid(const Configuration& configuration, const std::function<void()>& body)
    : configuration_(configuration), body_(body), random_(settings().seed) {
  gridDim = configuration.grid;
  blockDim = configuration.block;
  total_threads_ = count(gridDim) * count(blockDim);
  at_once_ = is_cooperative() ? count(gridDim) : settings().order == kEmulatorShuffled ? 2 : 1;
  current = this;
}

void Grid::run() {
  const std::vector<uint32_t> order = arranged(count(gridDim), random_);
  size_t next = 0;
  while (error_ == cudaSuccess && (next < order.size() || !resident_.empty())) {
    while (next < order.size() && resident_.size() < at_once_)
      resident_.push_back(
          std::make_unique<Block>(index_in(gridDim, order[next++]), blockDim, configuration_.shared_bytes));
    bool advanced = false;
    for (const auto& block : resident_) {
      if (error_ != cudaSuccess) break;
      if (block->rests > 0 && resident_.size() > 1) {
        --block->rests;
        advanced = true;
      } else {
        advanced |= run_block(*block);
      }
    }
    if (!advanced && error_ == cudaSuccess) fail(cudaErrorLaunchFailure, why_stuck());
    std::erase_if(resident_, [](const auto& block) { return block->returned == block->threads.size(); });
  }
}

// Lets each warp run as far as it gets, or until a thread yields. False when there was none that could.
bool Grid::run_block(Block& block) {
  block_ = &block;
  blockIdx = block.index;
  if (!block.started) {
    shared_.poison();
  } else if (at_once_ > 1) {
    shared_.restore(block.shared);
  }
  block.started = true;
  yields_ = false;
  bool advanced = false;
  const size_t warps = (block.threads.size() + kWarpSize - 1) / kWarpSize;
  for (const uint32_t warp : arranged(warps, random_)) {
    while (error_ == cudaSuccess && !yields_ && run_warp(block, warp * size_t{kWarpSize})) advanced = true;
  }
  if (at_once_ > 1) shared_.save(block.shared);
  return advanced;
}

// Lets each thread of a warp that can run do so until it has to wait; false when there was none. Called again while it
// advances, so that one warp is far ahead of another wherever no barrier holds it back.
bool Grid::run_warp(Block& block, size_t first) {
  bool advanced = false;
  for (const uint32_t lane : arranged(std::min<size_t>(kWarpSize, block.threads.size() - first), random_)) {
    Thread& thread = block.threads[first + lane];
    if (thread.wait != Wait::kNothing) continue;
    run_fiber(thread);
    advanced = true;
    if (error_ != cudaSuccess || yields_) break;
  }
  return advanced;
}

void Grid::run_fiber(Thread& thread) {
  thread_ = &thread;
  threadIdx = thread.index;
  if (thread.fiber == nullptr && !idle_fibers.empty()) {
    thread.fiber = std::move(idle_fibers.back());
    idle_fibers.pop_back();
  }
  if (thread.fiber == nullptr) thread.fiber = std::make_unique<Fiber>(fiber_job);
  thread.fiber->resume();
  if (thread.wait == Wait::kForever && error_ == cudaSuccess) idle_fibers.push_back(std::move(thread.fiber));
}

void Grid::run_thread() {
  try {
    body_();
    if (block_->counted_last && !thread_->sees_others)
      fault(cudaErrorLaunchFailure, "no __threadfence() after its block counted as the last one", block_->counted_at);
    if (configuration_.kind == Kind::kEarly && !thread_->has_waited)
      fault(cudaErrorLaunchFailure, "an end without waiting for the launch in front", configuration_.site);
  } catch (const Abandoned&) {
  }
  thread_->wait = Wait::kForever;
  ++block_->returned;
}

void Grid::block_barrier(const std::source_location& site) {
  Block& block = *block_;
  thread_->wait = Wait::kBlock;
  thread_->site = site;
  if (block.at_barrier == 0) block.first_at_barrier = thread_;
  const Thread& first = *block.first_at_barrier;
  if (first.site.line() != site.line() || strcmp(first.site.file_name(), site.file_name()) != 0)
    fault(cudaErrorLaunchFailure, "a barrier, while " + describe(first), site);
  if (++block.at_barrier < block.threads.size()) return Fiber::suspend();
  block.at_barrier = 0;
  for (Thread& thread : block.threads) {
    thread.wait = Wait::kNothing;
    thread.fenced = false;
  }
}

void Grid::grid_barrier(const std::source_location& site) {
  if (!is_cooperative())
    fault(cudaErrorLaunchFailure, "a barrier of the grid in a launch that is not cooperative", site);
  thread_->wait = Wait::kGrid;
  thread_->site = site;
  if (++at_grid_barrier_ < total_threads_) return Fiber::suspend();
  at_grid_barrier_ = 0;
  for (const auto& block : resident_)
    for (Thread& thread : block->threads) thread.wait = Wait::kNothing;
}

void Grid::fence() {
  thread_->fenced = true;
  if (block_->counted_last) thread_->sees_others = true;
}

// Memory is the same for all threads at once, so that what a fence is for is asked for by name: without one before the
// count, others may miss what the block wrote; without one after it, the last block may read what it had before.
void Grid::count_block(bool is_last, const std::source_location& site) {
  if (!thread_->fenced)
    fault(cudaErrorLaunchFailure, "atomicInc without __threadfence() since the block's last barrier", site);
  block_->counted_last = is_last;
  block_->counted_at = site;
}

void Grid::yield() {
  if (resident_.size() < 2 || random_() % 2 == 0) return;
  yields_ = true;
  block_->rests = random_() % kMostRests;
  Fiber::suspend();
}

uint64_t Grid::meet_warp(Wait kind, unsigned mask, uint64_t bits, int source, const std::source_location& site) {
  if ((mask >> lane() & 1u) == 0) fault(cudaErrorLaunchFailure, "a mask without the calling lane", site);
  if (kind == Wait::kShuffle && (mask >> source & 1u) == 0)
    fault(cudaErrorLaunchFailure, "a shuffle from lane " + std::to_string(source) + ", which is not in the mask", site);
  Thread& self = *thread_;
  self.wait = kind;
  self.mask = mask;
  self.bits = bits;
  self.source = source;
  self.site = site;
  if (missing_lane(*block_, self) >= 0) {
    Fiber::suspend();
  } else {
    complete_warp(kind, mask);
  }
  return self.bits;
}

// Hands every lane of the mask what it has asked for, and lets it run.
void Grid::complete_warp(Wait kind, unsigned mask) {
  Thread* const lanes = thread_ - lane();
  uint64_t posted[kWarpSize] = {};
  uint64_t votes = 0;
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    posted[lane] = lanes[lane].bits;
    votes |= (lanes[lane].bits & 1u) << lane;
  }
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    lanes[lane].bits = kind == Wait::kVote ? votes : posted[lanes[lane].source];
    lanes[lane].wait = Wait::kNothing;
  }
}

// The first lane that a thread's warp operation still waits for, or -1.
int Grid::missing_lane(const Block& block, const Thread& waiting) const {
  const size_t first = (&waiting - block.threads.data()) / kWarpSize * kWarpSize;
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if ((waiting.mask >> lane & 1u) == 0) continue;
    if (first + lane >= block.threads.size()) return static_cast<int>(lane);
    const Thread& other = block.threads[first + lane];
    if (other.wait != waiting.wait || other.mask != waiting.mask) return static_cast<int>(lane);
  }
  return -1;
}

void Grid::fault(cudaError_t error, const std::string& what, const std::source_location& site) {
  fail(error, "block " + written(blockIdx) + ", thread " + written(threadIdx) + ": " + what + "\n  at " + place(site));
  throw Abandoned{};
}

void Grid::fail(cudaError_t error, const std::string& what) {
  error_ = error;
  report_ = what;
}

}  // namespace emulator
