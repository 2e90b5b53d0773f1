// Launching the passes. No CUDA header, so that any compiler can read it; streams are passed as void*.
#pragma once

#include "device_tables.h"

namespace torchclip::cuda {

// Blocks of kThreads for a launch over so many chunks: as many as are resident at once, and no more than there is work.
using UpdateLauncher = void (*)(const PassArguments&, void* stream);
using NormLauncher = void (*)(const PassArguments&, const FinishArguments&, uint32_t blocks, void* stream);

using DirectionLauncher = void (*)(const PassArguments&, const FinishRuleArguments&, uint32_t blocks, void* stream);

struct Launchers {
  UpdateLauncher update = nullptr;  // null when this combination of types is not compiled
  NormLauncher raw_norm = nullptr;
  // Blocks that raw_norm is launched with: FinishArguments::blocks is their sum over the launches of a step.
  uint32_t (*norm_blocks)(int64_t chunk_count) = nullptr;
  // The same of rules that clip themselves; null for the others.
  DirectionLauncher direction_norm = nullptr;
  uint32_t (*direction_blocks)(int64_t chunk_count) = nullptr;
};
Launchers find_launchers(const char* rule, const Bucket& bucket);

// Without a norm pass.
void launch_finish(const FinishArguments& arguments, void* stream);

}  // namespace torchclip::cuda
