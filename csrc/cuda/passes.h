// Launching the passes. No CUDA header, so that any compiler can read it; streams are passed as void*. Every function
// throws std::runtime_error with the cause and the remedy when a call of the CUDA runtime fails, and works on the
// current device.
#pragma once

#include <string>

#include "../step/device_tables.h"

namespace torchclip::cuda {

// Blocks for a launch over so many chunks: as many as are resident at once, and no more than there is work.
using Blocks = uint32_t (*)(int64_t chunk_count);
using UpdateLauncher = void (*)(const PassArguments&, void* stream);
using NormLauncher = void (*)(const PassArguments&, const FinishArguments&, uint32_t blocks, void* stream);
using DirectionLauncher = void (*)(const PassArguments&, const FinishRuleArguments&, uint32_t blocks, void* stream);

template <class Launcher>
struct Launch {
  Launcher launch = nullptr;  // null when this combination is not compiled, or makes no sense
  Blocks blocks = nullptr;    // for `launch`; FinishArguments::blocks is the sum over a pass
};

struct Launchers {
  UpdateLauncher update = nullptr;
  Launch<NormLauncher> raw_norm;         // the norm of the scaled gradients
  Launch<NormLauncher> row_norm;         // the same of each row, and of the weights: AdaptiveGradientClip
  Launch<NormLauncher> norm_and_update;  // raw_norm and update in one cooperative launch
  // Of rules that measure a direction; null for the others.
  Launch<DirectionLauncher> direction_norm;
  Launch<DirectionLauncher> row_direction_norm;
  Launch<DirectionLauncher> direction_and_update;  // cooperative
};
// `bucket`: of its stages, kRowFactors may be set too; its group is not looked at. `types`: of operands that are coded.
Launchers find_launchers(const char* rule, const Bucket& bucket, const Types* types = nullptr);
// The kernels of a functor's rules, without those that know no rule: in functor.cu.
template <class Functor>
Launchers functor_launchers(const Bucket& bucket, const Types* types);

// What this process has for an exchange with others.
void launch_share(const ShareArguments& arguments, void* stream);
// Alone: before everything else where nothing is measured, and behind sums from several devices or processes.
void launch_finish(const FinishArguments& arguments, void* stream);
void launch_finish_rule(const FinishRuleArguments& arguments, void* stream);

// Writes host memory to the device through the parameters of launches: in the order of the stream, without waiting, and
// as a part of a graph that is being captured. Whole words of four bytes, at a multiple of four.
void upload(void* to, const void* from, int64_t bytes, void* stream);

struct DeviceInfo {
  int64_t cache_bytes;    // of the second-level cache
  uint32_t early_blocks;  // see PassArguments
};
DeviceInfo device_info(int device);

bool is_capturing(void* stream);

// In CUDA's numbers: 13000 is 13.0.
struct Versions {
  int driver = 0;  // the newest CUDA that the driver serves
  int runtime = 0;
};
Versions versions();

// Why no device here can run the kernels, with the remedy; empty when one can.
std::string unavailable_reason();

}  // namespace torchclip::cuda
