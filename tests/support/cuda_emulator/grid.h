// A launch in progress: its blocks, their threads, and what each of them waits for.
#pragma once

#include <functional>
#include <memory>
#include <random>
#include <source_location>
#include <string>
#include <vector>

#include "emulator/errors.h"
#include "emulator/launch.h"
#include "emulator/types.h"
#include "fiber.h"
#include "shared_memory.h"

namespace emulator {

constexpr unsigned kWarpSize = 32;

enum class Wait : uint8_t { kNothing, kBlock, kGrid, kShuffle, kVote, kForever };

struct Thread {
  uint3 index;
  Wait wait = Wait::kNothing;  // kForever: it has returned
  std::unique_ptr<Fiber> fiber;
  std::source_location site;  // of the barrier or warp operation
  unsigned mask = 0;          // of the warp operation
  int source = 0;
  uint64_t bits = 0;         // what it has posted to the warp, then what it receives
  bool fenced = false;       // since the block's last barrier
  bool sees_others = false;  // it has fenced since its block counted as the last one
  bool has_waited = false;   // for the launch in front of this one
};

struct Block {
  Block(uint3 index, dim3 size, size_t shared_bytes);

  uint3 index;
  std::vector<Thread> threads;
  std::unique_ptr<unsigned char[]> dynamic_shared;
  SharedMemory::Image shared;  // while another block runs
  bool started = false;
  size_t returned = 0;    // threads
  size_t at_barrier = 0;  // threads
  const Thread* first_at_barrier = nullptr;
  bool counted_last = false;
  std::source_location counted_at;
  uint64_t rests = 0;  // rounds in which only other blocks run
};

// In words, what a thread waits for.
std::string describe(const Thread& thread);
std::string place(const std::source_location& site);
std::string written(uint3 index);

class Grid {
 public:
  Grid(const Configuration& configuration, const std::function<void()>& body);

  // Runs every block to its end, or to the first fault.
  void run();
  cudaError_t error() const { return error_; }
  const std::string& report() const { return report_; }
  bool is_cooperative() const { return configuration_.kind == Kind::kCooperative; }

  // Called by the thread that runs.
  void block_barrier(const std::source_location& site);
  void grid_barrier(const std::source_location& site);
  void fence();
  void wait_for_previous() { thread_->has_waited = true; }
  void count_block(bool is_last, const std::source_location& site);
  void yield();  // another block may go on between an atomic operation and what comes next
  uint64_t meet_warp(Wait kind, unsigned mask, uint64_t bits, int source, const std::source_location& site);
  void* dynamic_shared() const { return block_->dynamic_shared.get(); }
  int lane() const { return static_cast<int>((thread_ - block_->threads.data()) % kWarpSize); }
  [[noreturn]] void fault(cudaError_t error, const std::string& what, const std::source_location& site);

  void run_thread();  // the job of every fiber

 private:
  bool run_block(Block& block);
  bool run_warp(Block& block, size_t first);
  void run_fiber(Thread& thread);
  void complete_warp(Wait kind, unsigned mask);
  int missing_lane(const Block& block, const Thread& waiting) const;
  void fail(cudaError_t error, const std::string& what);
  std::string why_stuck() const;
  std::string why_waits(const Block& block, const Thread& waiting) const;

  const Configuration& configuration_;
  const std::function<void()>& body_;
  SharedMemory shared_;
  std::mt19937_64 random_;
  Block* block_ = nullptr;
  Thread* thread_ = nullptr;
  std::vector<std::unique_ptr<Block>> resident_;
  size_t at_once_ = 1;          // blocks that are resident together
  bool yields_ = false;         // the block that runs is to stop
  size_t at_grid_barrier_ = 0;  // threads
  size_t total_threads_ = 0;
  cudaError_t error_ = cudaSuccess;
  std::string report_;
};

}  // namespace emulator
