// The graph that is being captured, and the last one that was.
#pragma once

#include <functional>

#include "emulator/errors.h"

namespace emulator {

bool is_capturing();
// True when a call has been made since the capture began that a capture forbids.
bool is_spoilt();

// Runs the work, or records it, with the device that is current, while a graph is captured.
cudaError_t run_or_record(std::function<cudaError_t()> work);
// The error of a call that no capture allows, else cudaSuccess.
cudaError_t outside_capture();

}  // namespace emulator
