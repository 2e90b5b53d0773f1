// What device code asks of the machine that runs it. Hidden, as everything here is: a real CUDA runtime may be loaded
// in the same process, and these calls must not bind to it.
#pragma once

#include <cstdint>
#include <source_location>
#include <string>

#include "errors.h"
#include "types.h"

#pragma GCC visibility push(hidden)

// Of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

using Site = std::source_location;

void block_barrier(const Site& site);
void grid_barrier(const Site& site);
bool is_cooperative();
int lane();
void fence();
// For the end of the launch in front of this one: every thread of a launch that may begin earlier must.
void wait_for_previous();
// A byte that is wanted in the cache; it must be there to be read.
void fetch(const void* from);
void count_wide_read();
// atomicInc is how a block says that it is done: the last one begins the count anew.
void count_block(bool is_last, const Site& site);
// After an atomic operation: other blocks may run before this thread goes on.
void yield();
// Posts `bits` to the lanes of the mask, waits for theirs, and returns those of the source lane.
uint64_t shuffle(unsigned mask, uint64_t bits, int source, const Site& site);
// The lanes of the mask whose predicate is true.
unsigned vote(unsigned mask, bool predicate, const Site& site);
void* dynamic_shared();
// Ends the launch with an error, and a report that names kernel, block and thread.
[[noreturn]] void fault(cudaError_t error, const std::string& what, const Site& site);

}  // namespace emulator

#pragma GCC visibility pop
