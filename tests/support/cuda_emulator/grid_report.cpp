// What went wrong in a launch, in words.
#include <cstdio>

#include "grid.h"

namespace emulator {

std::string written(uint3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string place(const std::source_location& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line()) + ", in " + site.function_name();
}

std::string describe(const Thread& thread) {
  char mask[16];
  snprintf(mask, sizeof(mask), "0x%08x", thread.mask);
  const std::string name = "thread " + written(thread.index);
  switch (thread.wait) {
    case Wait::kNothing:
      return name + " runs";
    case Wait::kForever:
      return name + " has returned";
    case Wait::kBlock:
      return name + " waits at __syncthreads, " + place(thread.site);
    case Wait::kGrid:
      return name + " waits at the grid's barrier, " + place(thread.site);
    case Wait::kShuffle:
      return name + " waits in a shuffle under the mask " + mask + ", " + place(thread.site);
    case Wait::kVote:
      return name + " waits in a vote or __syncwarp under the mask " + mask + ", " + place(thread.site);
  }
  return name;
}

// Why a thread can go no further: another one that it waits for, and what that one does.
std::string Grid::why_waits(const Block& block, const Thread& waiting) const {
  const std::string head = "block " + written(block.index) + ": " + describe(waiting) + ",\n  while ";
  if (waiting.wait == Wait::kShuffle || waiting.wait == Wait::kVote) {
    const size_t first = (&waiting - block.threads.data()) / kWarpSize * kWarpSize;
    const size_t other = first + static_cast<size_t>(missing_lane(block, waiting));
    if (other >= block.threads.size()) return head + "the block has no thread " + std::to_string(other);
    return head + describe(block.threads[other]);
  }
  for (const auto& any : resident_) {
    if (waiting.wait == Wait::kBlock && any.get() != &block) continue;
    for (const Thread& other : any->threads)
      if (other.wait != waiting.wait) return head + "in block " + written(any->index) + " " + describe(other);
  }
  return head + "a block has ended";
}

std::string Grid::why_stuck() const {
  for (const auto& block : resident_)
    for (const Thread& thread : block->threads)
      if (thread.wait != Wait::kForever) return why_waits(*block, thread);
  return "nothing is left to run";
}

}  // namespace emulator
