// What a step's kernels read and write. Plain data: the host fills it, and no CUDA header is needed to.
#pragma once

#include "../modifiers.h"
#include "../tables.h"

namespace torchclip::cuda {

// The sets of stages that the update kernels are compiled for. A step that draws or clamps takes the last, and says in
// PassArguments::stages which of its stages are in use: on a GPU a test that all threads decide alike costs nothing
// beside memory, and the sets would multiply the kernels by ten.
constexpr unsigned kEveryStage = kValueClip | kGradientDropout | kGradientNoise | kCoupledDecay | kLRDropout;
constexpr unsigned kCompiledStages[] = {0, kCoupledDecay, kEveryStage};
constexpr unsigned compiled_stages(unsigned stages) { return (stages & ~kCoupledDecay) != 0 ? kEveryStage : stages; }

// One parameter of a launch.
struct DeviceTensor {
  void* pointer[kOperands];  // null where absent
  int64_t numel;
  int32_t row;     // of the coefficients
  int32_t member;  // position among all parameters
  int32_t head;    // elements before all operands lie on 16 bytes; -1 when they never do together
};

// A run of elements of one tensor, of which one block takes care. `begin` is a multiple of kChunkGrain.
struct DeviceChunk {
  int32_t tensor;
  int32_t count;
  int64_t begin;
};
constexpr int64_t kChunkGrain = 1024;  // elements; a multiple of 16 bytes in every type

// What a launch over chunks is given. Everything is device memory.
struct PassArguments {
  const DeviceTensor* tensors;  // [tensors]
  const DeviceChunk* chunks;    // [chunk_count]
  int64_t chunk_count;
  const Row* rows;      // [rows]
  Partial* partials;    // [chunk_count], written by a norm pass
  int64_t* zeros;       // [chunk_count], written by the update pass of rules that count them
  const int32_t* skip;  // not 0: nothing is updated; null: always update
  Extras extras;
  uint32_t stages;  // of those compiled into the kernel, the ones in use
  int32_t streams;  // 1: what is written is not read again while it is in the cache
};

// Over which norms the gradients of a row are clipped.
struct RowSource {
  int32_t clip_unit;  // of the policy's scope; -1: nothing is measured for it
};

// What is done with the partial sums of the clip policy's norms.
struct FinishArguments {
  const Partial* partials;     // [chunks], of all launches of the norm pass together
  const int32_t* unit_chunks;  // [units + 1], the chunks of each unit of the policy's scope follow one another
  int32_t units;
  int32_t row_count;
  const RowSource* sources;  // [row_count]
  Row* rows;                 // [row_count], read and written
  double* grad_norm;         // [units], written
  double* clip_factor;       // [units], written
  double* norm_count;        // of the policies that remember norms, read and written
  double* norm_mean;         // ZClip's
  double* norm_variance;
  double* norm_window;      // AutoClip's: [window]
  const double* loss;       // of AdaLossStep
  double* b_squared;        // read and written
  double* step;             // steps taken, read and written; null where nothing counts them
  const float* grad_scale;  // of a GradScaler, null without one
  const float* found_inf;   // null without one
  int32_t* skip;            // written
  double* lr_scale;         // written where there is a step size
  uint32_t* blocks_done;    // of the norm pass; 0 before and after
  uint32_t blocks;          // of all launches of the norm pass together
  Modifiers modifiers;
};

// The rules that clip themselves.
enum class SelfClipping : int32_t { kNormalizedSgd, kMixClip, kAdaGradNorm };

// What the coefficients of a row come from, for those rules.
struct RuleSource {
  int32_t unit;               // of the rule's scope
  int32_t first;              // 1: the state was made in this step
  double hyperparameters[8];  // in the order of the rule's struct
};

// What is done with the partial sums of the norms that a rule takes itself.
struct FinishRuleArguments {
  const Partial* partials;     // [chunks], of all launches of the pass together
  const int32_t* unit_chunks;  // [units + 1]
  int32_t units;
  int32_t row_count;
  SelfClipping rule;
  const RuleSource* sources;  // [row_count]
  Row* rows;                  // [row_count], their rule's coefficients are written
  double* grad_norm;          // [units], written
  double* direction_norm;     // [units], written
  double* clip_factor;        // [units], written: that of the unit's first row
  double* sums;               // AdaGradNorm's: [units], read and written
  const int32_t* skip;        // not 0: the sums stay as they are; null: never
  uint32_t* blocks_done;      // of the pass; 0 before and after
  uint32_t blocks;            // of all launches of the pass together
};

}  // namespace torchclip::cuda
