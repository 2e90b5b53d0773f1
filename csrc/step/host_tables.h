// The tables of one device as the host builds them: tensors, chunks, units and what coefficients are made from.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "device_tables.h"
#include "sharing.h"
#include "step.h"

namespace torchclip {

// What the tables depend on besides the parameters.
struct Shape {
  Scope rule_scope = Scope::kOptimizer;
  bool clips_norms = false;  // a policy measures norms over a scope
  bool clips_rows = false;   // a policy keeps rows apart
  bool rule_rows = false;    // the rule does
  Scope clip_scope = Scope::kOptimizer;
  std::vector<GroupClip> group_clips;    // [groups], or empty where no group has a policy of its own
  std::vector<unsigned> stages;          // [groups]
  bool coefficients_per_tensor = false;  // every tensor has coefficients of its own
  bool fresh = false;                    // of each parameter it is known whether a step was taken with its state
  bool lookahead = false;                // or WeightEMA
  bool joint_norm = false;               // all gradients are measured, whatever the policies of groups
  bool threshold_scales = false;         // thresholds have factors
  bool operator==(const Shape&) const = default;

  bool by_rows() const { return clips_rows || rule_rows; }
  // Whether the pass for the policy looks at a group's gradients.
  bool measures(int32_t group) const {
    return joint_norm || group_clips.empty() || group_clips[static_cast<size_t>(group)].is_measured();
  }
};

// How the elements of a tensor are reached: one after the other from any address, or from multiples of 16 bytes, or by
// a layout. The numbering is that of kernels/tables.py.
enum class Access : int { kAnyhow, kAligned, kStrided };

// How a launcher wants the tables.
struct Cutting {
  int64_t piece_bytes = kPieceBytes;  // of the parameter, that a block of the update pass takes
  int64_t rows_together = std::numeric_limits<int64_t>::max();  // whole rows in a chunk by rows
  bool by_access = false;                                       // tensors are reached in one way in all of a run
};

// Chunks that one launch of each pass serves: those of tensors with the same types, slots and stages.
struct Run {
  Bucket bucket;
  bool is_measured;                      // by the pass for the clip policy
  Access access;                         // kAnyhow where the launcher does not ask
  bool is_coded;                         // no kernel is compiled for the operands as they lie in memory
  Types types;                           // where it is
  int64_t first = 0, count = 0;          // chunks
  int32_t pieces = 1;                    // of the longest one, see PassArguments
  int64_t first_piece = 0;               // among those of all runs
  int64_t first_row = 0, row_count = 0;  // chunks by rows

  DType gradient_dtype() const { return is_coded ? types.gradient : bucket.parameter_dtype; }
  // The counts of zeros of each run begin at a multiple of 16 bytes.
  int64_t end_piece() const { return first_piece + (count * pieces + 1) / 2 * 2; }
};

struct HostTables {
  std::vector<size_t> positions;  // [tensors], among all parameters
  std::vector<DeviceTensor> tensors;
  std::vector<DeviceBeside> beside;     // [tensors] under a precision policy, or empty
  std::vector<int64_t> layouts;         // of strided tensors, one after the other
  std::vector<int64_t> layout_offsets;  // [tensors], where each begins there; -1: it has none
  std::vector<DeviceChunk> chunks;      // by run
  std::vector<DeviceRowChunk> row_chunks;
  std::vector<DeviceLongRow> long_rows;
  std::vector<CoefficientSource> sources;  // [sets of coefficients]
  std::vector<int32_t> clip_units;         // [units + 1], see UnitSums::unit_chunks
  std::vector<int32_t> rule_units;
  std::vector<int32_t> row_unit;       // of a pass by rows: one unit
  std::vector<ZeroRange> zero_ranges;  // where thresholds have factors
  std::vector<int32_t> zero_begins;    // [param groups + 1], see CoefficientArguments
  std::vector<double> group_elements;  // [param groups], with a gradient, on all devices
  std::vector<int64_t> first_pieces;   // [tensors], of those that zeros are counted in; -1: it is empty
  std::vector<Run> runs;
  std::vector<char> aligned;  // [tensors], see is_aligned; empty where the launcher does not ask
  int64_t row_total = 0;      // rows of all tensors
  int64_t bytes = 0;          // of every operand
  int64_t gradient_bytes = 0;

  // Null when there are several with chunks, or none.
  const Run* only_run() const {
    const auto has_chunks = [](const Run& run) { return run.count > 0; };
    const auto first = std::find_if(runs.begin(), runs.end(), has_chunks);
    return std::count_if(first, runs.end(), has_chunks) == 1 ? &*first : nullptr;
  }
  int64_t pieces() const { return runs.empty() ? 0 : runs.back().end_piece(); }
  int64_t partials() const {
    return static_cast<int64_t>(chunks.size() > row_chunks.size() ? chunks.size() : row_chunks.size());
  }
};

// Those of a parameter whose operands are coded; null of others.
const Types* coded_types(const ParameterRecord& record);

// Whether every operand of a parameter begins at a multiple of 16 bytes in this step.
bool is_aligned(const ParameterRecord& record, bool lookahead);

// `positions`: of the parameters with a gradient on the device.
HostTables build_tables(const RuleEntry& rule, const ParameterReader& reader, const Shape& shape,
                        const Cutting& cutting, const std::vector<size_t>& positions, const Sharing& sharing);

}  // namespace torchclip
