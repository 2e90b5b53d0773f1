// What a step's kernels read and write, CUDA's and Triton's alike. Plain data: the host fills it, and no CUDA header is
// needed to. kernels/tables.py says where each field lies, and a test compares the two.
#pragma once

#include "../codecs.h"
#include "exchange_layout.h"
#include "modifiers.h"

namespace torchclip {

// The sets of stages that the update kernels are compiled for. A step that draws, clamps or has factors of its own for
// each row takes the last, and says in PassArguments which of that it uses: on a GPU a test that all threads decide
// alike costs nothing beside memory, and the sets would multiply the kernels by ten.
constexpr unsigned kEveryStage = kValueClip | kGradientDropout | kGradientNoise | kCoupledDecay | kLRDropout;
constexpr unsigned kCompiledStages[] = {0, kCoupledDecay, kEveryStage};
// Beside the stages of a bucket when kernels are looked for: a row of a tensor has a factor of its own.
constexpr unsigned kRowFactors = 32u;
constexpr unsigned compiled_stages(unsigned stages) { return (stages & ~kCoupledDecay) != 0 ? kEveryStage : stages; }

// How many of a table ride in the parameters of a launch; longer ones lie in device memory. 32,764 bytes fit.
constexpr int kInlineGradients = 384;
constexpr int kInlineGroups = 8;
constexpr int kInlineCoefficients = 8;
constexpr int kMaxHyperparameters = 8;

// One parameter of a launch. Uploaded when the structure of the step changes.
struct DeviceTensor {
  void* pointer[kOperands];  // null where absent; the gradient's always is, since gradients move: see PassArguments
  int64_t numel;
  int32_t coefficients;   // which set of them it has
  int32_t parameter;      // position among all parameters
  int32_t dimensions;     // of `layout`; 0 when every operand lies as the parameter does, without gaps
  int32_t sum_is_double;  // float otherwise
  const int64_t* layout;  // [1 + kOperands, dimensions]: sizes, then the strides of each operand in elements; outermost
                          // dimension first. Behind them those of what is kept beside the parameter, where there is
  Rows rows;              // count 0 where it has none
  int64_t first_row;      // among the rows of all tensors
  void* sums;             // AdaGradNorm's over rows: [rows.count], read and written; null otherwise
  DrawPlace place;        // what its draws go by
};

// What a precision policy keeps beside the operands of one tensor: see Beside. Uploaded as DeviceTensor is.
struct DeviceBeside {
  void* parameter;
  float* absmax[kMaxSlots];
};

// A run of elements of one tensor, of which one block takes care. `begin` is a multiple of kChunkGrain.
struct DeviceChunk {
  int32_t tensor;
  int32_t count;
  int32_t partial;  // where its partial sums go: chunks of a unit follow one another there, whatever their launch
  int64_t begin;
};
constexpr int64_t kChunkGrain = 1024;  // elements; a multiple of 16 bytes in every type

// The update pass, which leaves no sum to add up, divides chunks further: a block takes so much of the parameter.
constexpr int64_t kPieceBytes = 16384;  // whole grains in every type

// The same of a norm pass that keeps rows apart: whole rows, or a part of a long one, or of a tensor without rows.
struct DeviceRowChunk {
  int32_t tensor;
  int32_t rows;      // whole rows from number `row` on; 0: elements [begin, begin + count) of that row alone
  int32_t partial;   // where the sums over the chunk go
  int32_t long_row;  // of which it is a part; -1: it is not
  int64_t row;       // within the tensor
  int64_t begin;     // within the row; a multiple of kChunkGrain
  int64_t count;
};

// A row that several chunks share: its sums are put together at the end of the pass.
struct DeviceLongRow {
  int32_t tensor;
  int32_t first_partial;
  int32_t partials;
  int64_t row;  // within the tensor
};

// What the first finish of a step decides.
struct StepNumbers {
  double step;            // the number of this step, from 1; 0 where nothing counts steps
  int32_t skip;           // not 0: nothing is written
  int32_t synchronises;   // not 0: Lookahead ends a round, or WeightEMA averages
  double average_weight;  // of the parameters in Lookahead's slow weights, or in WeightEMA's average
};

// What a launch over chunks is given. Every pointer is to device memory.
struct PassArguments {
  const DeviceTensor* tensors;       // [tensors]
  const void* const* gradients;      // [tensors]; null: inline_gradients
  const DeviceChunk* chunks;         // [chunk_count]
  const DeviceRowChunk* row_chunks;  // [chunk_count], of a norm pass by rows in place of `chunks`
  int64_t chunk_count;
  int64_t first_kept;                  // of a norm pass: the chunks from here on stay in the second-level cache
  const Coefficients* coefficients;    // [sets]; null: inline_coefficients
  const double* row_gradient_factors;  // [rows of all tensors], on the gradient; null: none
  const double* row_step_factors;      // the same on the step; null: none
  double* row_factors;                 // [rows of all tensors], written by a norm pass by rows
  Partial* partials;                   // [chunks of all launches], written by a norm pass
  int64_t* zeros;                      // [chunk_count * pieces], written by the update pass of rules that count them
  const StepNumbers* numbers;  // null: there is no first finish; the step is taken, draws nothing and ends no round
  Extras extras;               // seed, thresholds and alpha
  uint32_t stages;             // of those compiled into the kernel, the ones in use
  int32_t pieces;              // of the longest chunk, for the update pass
  int32_t overflows_cache;     // not 0: what the update pass has used, it does not keep in the second-level cache
  uint32_t early_blocks;       // of the update pass that begin while the pass before it ends; 0: it waits for its end
  Coefficients inline_coefficients[kInlineCoefficients];
  const void* inline_gradients[kInlineGradients];
  // Of operands that a precision policy holds.
  const DeviceBeside* beside;  // [tensors]
  Types types;
};

// What a param group says in this step.
struct GroupNumbers {
  double hyperparameters[kMaxHyperparameters];  // lr, then the rule's own, in the order of its struct
  double weight_decay;
  double decoupled;  // 0 or 1
  double maximize;   // 0 or 1
  const void* lr;    // on the device, in place of hyperparameters[0]; null: that holds
  int32_t lr_is_double;
  double* threshold_scale;  // the factor on its threshold, read and written; null where that is 1
  double target;            // of target_sparsity, which steers the factor
  double elements;          // with a gradient, among which zeros are counted; 0 where the factor stays
};

// Counts of zeros that follow one another and are those of one param group.
struct ZeroRange {
  int64_t first;
  int64_t count;
};

// What coefficients are made from. Uploaded when the structure of the step changes.
struct CoefficientSource {
  void* scalars[kMaxScalars];             // numbers of state of their tensor, read and written; null where none
  int32_t scalar_is_double[kMaxScalars];  // float otherwise
  int32_t group;
  int32_t clip_unit;  // of the policy's scope; -1: the policy measures nothing, or keeps rows apart
  int32_t rule_unit;  // of the scope of a rule that clips itself
  int32_t fresh;      // position in CoefficientArguments::fresh; -1 where it does not matter
};

struct CoefficientArguments {
  int32_t rule;                      // position in the registry
  int32_t count;                     // of sets of coefficients
  const CoefficientSource* sources;  // [count]
  Coefficients* sets;                // [count], written
  double* next_scalars;              // [count, kMaxScalars], numbers of state behind the step, should it be taken
  int32_t* fresh;                    // [parameters]: 1 until a step has been taken with the state; null where none asks
  const GroupNumbers* groups;        // [param groups]; null: inline_groups
  const int64_t* zeros;  // that the last step has counted, see PassArguments; null where no threshold has a factor
  const ZeroRange* zero_ranges;
  const int32_t* zero_begins;     // [param groups + 1], the ranges of each follow one another
  const ZeroCount* shared_zeros;  // [zero_sets, param groups], those of all processes, in the place of `zeros`; null
                                  // where no others have some
  int32_t zero_sets;
  int32_t group_count;
  double* next_scales;  // [param groups], factors on thresholds behind the step, should it be taken
  GroupNumbers inline_groups[kInlineGroups];
};

// Sums over units, from the partial sums of a pass, or from those that several devices or processes have.
struct UnitSums {
  const Partial* partials;     // of all launches of the pass together
  const int32_t* unit_chunks;  // [units + 1], the partial sums of each unit follow one another
  int32_t units;               // 0: nothing is measured
  int32_t sets;
  UnitSum* of_sets;   // [sets, units], from as many devices or processes, in place of `partials`; null: of the pass
  UnitSum* write_to;  // [units]: write the sums here and decide nothing, since other devices have some too
};

// A long row of which other processes hold parts.
struct SharedRow {
  int64_t place;  // among all that are sent; -1: no others have a part of it
  double share;   // what part of its sums counts
};

// The end of a norm pass by rows: long rows, whose sums several chunks hold.
struct RowSums {
  const DeviceTensor* tensors;
  const DeviceLongRow* long_rows;  // [long_row_count]
  int32_t long_row_count;
  int32_t shared_row_count;      // of long_rows, to look at once the sums of all processes are there; 0 before
  Partial* partials;             // the pass's own
  double* row_factors;           // null: the pass keeps no rows apart
  const SharedRow* shared_rows;  // [long_rows]; null: no others have parts of rows
  const Partial* place_sums;     // [places], of the rows of all processes
  int64_t places;
};

constexpr int kCounters = 5, kDisagreed = 4;

// What the ends of both norm passes need. Triton's kernels read it in device memory, CUDA's in their parameters.
struct FinishTables {
  UnitSums sums;
  RowSums row_sums;
  double* grad_norm;      // [units], written
  double* clip_factor;    // [units], written; a rule's: that of the unit's first set of coefficients, of group 0 where
                          // there is one unit
  double* counters;       // [kCounters]: steps taken that measured a factor, those of them in which one was below 1;
                          // steps, and those that were not taken; and not 0 once the processes have disagreed, until
                          // the hosts have heard of it. Null for a rule where the policy counts
  StepNumbers* numbers;   // of the first finish, which writes them; null for a rule where there was none, which makes
                          // the coefficients then
  uint32_t* blocks_done;  // of the pass; 0 before and after
  uint32_t blocks;        // of all launches of the pass together
  int32_t fills_coefficients;  // of the pass for the clip policy; 0: another launch of it does
  const double* common;        // [kCommonNumbers] of all processes; null where they were not asked before this
  Modifiers modifiers;
  CoefficientArguments coefficients;
};

// What is done with the sums of the clip policy, and before anything else where nothing is measured.
struct FinishArguments : FinishTables {
  const GroupClip* group_clips;  // [param groups], which are the units then; null: no group has a policy of its own
  double* norm_count;            // of the policies that remember norms, read and written
  double* norm_mean;             // ZClip's
  double* norm_variance;
  double* norm_window;      // AutoClip's: [window]
  const void* loss;         // of AdaLossStep, PolyakStep and SkipSpikes
  int32_t loss_dtype;       // DType
  double* b_squared;        // read and written
  double* step;             // steps taken, read and written; null where nothing counts them
  double* lr_scale;         // written where there is a step size
  const float* grad_scale;  // of a GradScaler, null without one
  const float* found_inf;   // null without one; a sum over devices
  double* norm_bounds;      // AdaGC's: [parameters]
  double* polyak_step;      // read and written; null where it has no growth
  double* skip_norms;       // SkipSpikes': [skip_window], as the losses; null where it does not look at them
  double* skip_norm_count;
  double* skip_losses;
  double* skip_loss_count;
  double* skipped;  // written: 1 where the step is not taken; null where no policy skips steps
};

// What is done with the sums that a rule takes itself.
struct FinishRuleArguments : FinishTables {
  double* direction_norm;        // [units], written
  void* const* rule_sums;        // AdaGradNorm's: [units], where each lies, null where a unit has none; null over rows
  const int32_t* sum_is_double;  // [units]
  StepNumbers* decided;          // of the step: whether it is skipped is written; null where no others were asked
};

// Partial sums, or counts of zeros, that follow one another and count in one cell: see Cells in sharing.h.
struct SharedRange {
  int64_t first;
  int64_t count;
  double share;  // what part of their sum counts
};

// What an exchange with other processes is filled from.
struct ShareArguments {
  double* numbers;  // [layout.count()], written
  ExchangeLayout layout;
  const SharedRange* ranges;    // of partial sums
  const int32_t* range_begins;  // [layout.cells + 1], the ranges of each follow one another
  const int32_t* tensors;       // [layout.cells], how many tensors count in each
  RowSums row_sums;
  int32_t changes_direction;  // not 0: what is left of a shared row is known after the exchange alone
  int32_t is_first;           // of the step: what all processes have goes out once
  const int64_t* zeros;       // see CoefficientArguments
  const SharedRange* zero_ranges;
  const int32_t* zero_begins;   // [layout.zero_cells + 1]
  const double* zero_elements;  // [layout.zero_cells], among which they are
  const float* found_inf;       // null without one
  const void* loss;             // null where no others are asked for theirs
  int32_t loss_dtype;
  double loss_share;
  double gradients;
  double number;  // what this process goes by
};

}  // namespace torchclip
