#include "table_layout.h"

#include "device_tables.h"

namespace torchclip {
namespace {

using Layout = std::map<std::string, std::pair<int64_t, int64_t>>;

template <class Struct, class Field>
std::pair<int64_t, int64_t> place(const Struct& whole, const Field& field) {
  return {reinterpret_cast<const char*>(&field) - reinterpret_cast<const char*>(&whole),
          static_cast<int64_t>(sizeof(Field))};
}

template <class Struct>
std::pair<int64_t, int64_t> whole() {
  return {0, static_cast<int64_t>(sizeof(Struct))};
}

Layout elements() {
  const DeviceTensor tensor{};
  const DeviceBeside beside{};
  const DeviceChunk chunk{};
  const DeviceRowChunk row_chunk{};
  const DeviceLongRow long_row{};
  const Partial partial{};
  const UnitSum unit_sum{};
  return {
      {"TENSOR_NUMEL", place(tensor, tensor.numel)},
      {"TENSOR_COEFFICIENTS", place(tensor, tensor.coefficients)},
      {"TENSOR_NUMBER", place(tensor, tensor.place.number)},
      {"TENSOR_PLACE_OFFSET", place(tensor, tensor.place.offset)},
      {"TENSOR_PLACE_INNER", place(tensor, tensor.place.inner)},
      {"TENSOR_PLACE_OUTER", place(tensor, tensor.place.outer)},
      {"TENSOR_DIMENSIONS", place(tensor, tensor.dimensions)},
      {"TENSOR_SUM_IS_DOUBLE", place(tensor, tensor.sum_is_double)},
      {"TENSOR_LAYOUT", place(tensor, tensor.layout)},
      {"TENSOR_ROWS", place(tensor, tensor.rows.count)},
      {"TENSOR_INNER", place(tensor, tensor.rows.inner)},
      {"TENSOR_FIRST_ROW", place(tensor, tensor.first_row)},
      {"TENSOR_SUMS", place(tensor, tensor.sums)},
      {"TENSOR_WORDS", whole<DeviceTensor>()},
      {"BESIDE_PARAMETER", place(beside, beside.parameter)},
      {"BESIDE_ABSMAX", place(beside, beside.absmax[0])},
      {"BESIDE_WORDS", whole<DeviceBeside>()},
      {"CHUNK_TENSOR", place(chunk, chunk.tensor)},
      {"CHUNK_COUNT", place(chunk, chunk.count)},
      {"CHUNK_PARTIAL", place(chunk, chunk.partial)},
      {"CHUNK_BEGIN", place(chunk, chunk.begin)},
      {"CHUNK_WORDS", whole<DeviceChunk>()},
      {"ROW_CHUNK_TENSOR", place(row_chunk, row_chunk.tensor)},
      {"ROW_CHUNK_ROWS", place(row_chunk, row_chunk.rows)},
      {"ROW_CHUNK_PARTIAL", place(row_chunk, row_chunk.partial)},
      {"ROW_CHUNK_LONG_ROW", place(row_chunk, row_chunk.long_row)},
      {"ROW_CHUNK_ROW", place(row_chunk, row_chunk.row)},
      {"ROW_CHUNK_BEGIN", place(row_chunk, row_chunk.begin)},
      {"ROW_CHUNK_COUNT", place(row_chunk, row_chunk.count)},
      {"ROW_CHUNK_WORDS", whole<DeviceRowChunk>()},
      {"LONG_ROW_TENSOR", place(long_row, long_row.tensor)},
      {"LONG_ROW_FIRST_PARTIAL", place(long_row, long_row.first_partial)},
      {"LONG_ROW_PARTIALS", place(long_row, long_row.partials)},
      {"LONG_ROW_ROW", place(long_row, long_row.row)},
      {"LONG_ROW_WORDS", whole<DeviceLongRow>()},
      {"SUM_GRADIENT", place(partial, partial.gradient)},
      {"SUM_DIRECTION", place(partial, partial.direction)},
      {"SUM_WORDS", whole<Partial>()},
      {"UNIT_SUM_COUNT", place(unit_sum, unit_sum.count)},
      {"UNIT_SUM_WORDS", whole<UnitSum>()},
  };
}

Layout coefficients() {
  const Coefficients set{};
  const CoefficientSource source{};
  const GroupNumbers group{};
  const ZeroRange zeros{};
  const StepNumbers step{};
  const GroupClip clip{};
  const Modifiers policy{};
  return {
      {"COEFFICIENTS_GRADIENT_SCALE", place(set, set.pipeline.gradient_scale)},
      {"COEFFICIENTS_VALUE_LIMIT", place(set, set.pipeline.value_limit)},
      {"COEFFICIENTS_NOISE_SCALE", place(set, set.pipeline.noise_scale)},
      {"COEFFICIENTS_WEIGHT_DECAY", place(set, set.pipeline.weight_decay)},
      {"COEFFICIENTS_SHRINK", place(set, set.pipeline.shrink)},
      {"COEFFICIENTS_RULE", place(set, set.rule[0])},
      {"COEFFICIENTS_WORDS", whole<Coefficients>()},
      {"SOURCE_SCALAR", place(source, source.scalars[0])},
      {"SOURCE_IS_DOUBLE", place(source, source.scalar_is_double[0])},
      {"SOURCE_GROUP", place(source, source.group)},
      {"SOURCE_CLIP_UNIT", place(source, source.clip_unit)},
      {"SOURCE_RULE_UNIT", place(source, source.rule_unit)},
      {"SOURCE_FRESH", place(source, source.fresh)},
      {"SOURCE_WORDS", whole<CoefficientSource>()},
      {"GROUP_WEIGHT_DECAY", place(group, group.weight_decay)},
      {"GROUP_DECOUPLED", place(group, group.decoupled)},
      {"GROUP_MAXIMIZE", place(group, group.maximize)},
      {"GROUP_LR", place(group, group.lr)},
      {"GROUP_LR_IS_DOUBLE", place(group, group.lr_is_double)},
      {"GROUP_THRESHOLD_SCALE", place(group, group.threshold_scale)},
      {"GROUP_TARGET", place(group, group.target)},
      {"GROUP_ELEMENTS", place(group, group.elements)},
      {"GROUP_WORDS", whole<GroupNumbers>()},
      {"ZERO_RANGE_FIRST", place(zeros, zeros.first)},
      {"ZERO_RANGE_COUNT", place(zeros, zeros.count)},
      {"ZERO_RANGE_WORDS", whole<ZeroRange>()},
      {"STEP_NUMBER", place(step, step.step)},
      {"STEP_AVERAGE_WEIGHT", place(step, step.average_weight)},
      {"STEP_SKIPS", place(step, step.skip)},
      {"STEP_SYNCHRONISES", place(step, step.synchronises)},
      {"GROUP_CLIP_LIMIT", place(clip, clip.limit)},
      {"GROUP_CLIP_UNIT", place(clip, clip.unit)},
      {"GROUP_CLIP_SMOOTH", place(clip, clip.smooth)},
      {"GROUP_CLIP_NONFINITE", place(clip, clip.nonfinite)},
      {"GROUP_CLIP_WORDS", whole<GroupClip>()},
      {"POLICY_LIMIT", place(policy, policy.limit)},
      {"POLICY_UNIT_EPS", place(policy, policy.unit_eps)},
      {"POLICY_PERCENTILE", place(policy, policy.percentile)},
      {"POLICY_WINDOW", place(policy, policy.window)},
      {"POLICY_Z_ALPHA", place(policy, policy.z_alpha)},
      {"POLICY_Z_THRESHOLD", place(policy, policy.z_threshold)},
      {"POLICY_Z_WARMUP", place(policy, policy.z_warmup)},
      {"POLICY_Z_EPS", place(policy, policy.z_eps)},
      {"POLICY_B0", place(policy, policy.b0)},
      {"POLICY_ALPHA", place(policy, policy.alpha)},
      {"POLICY_C", place(policy, policy.c)},
      {"POLICY_NOISE_ETA", place(policy, policy.noise_eta)},
      {"POLICY_NOISE_GAMMA", place(policy, policy.noise_gamma)},
      {"POLICY_LOOKAHEAD_K", place(policy, policy.lookahead_k)},
      {"POLICY_LOOKAHEAD_ALPHA", place(policy, policy.lookahead_alpha)},
      {"POLICY_RELATIVE_LIMIT", place(policy, policy.relative_limit)},
      {"POLICY_STEP_EPS", place(policy, policy.step_eps)},
      {"POLICY_GROWTH", place(policy, policy.growth)},
      {"POLICY_SKIP_WINDOW", place(policy, policy.skip_window)},
      {"POLICY_SKIP_SIGMA", place(policy, policy.skip_sigma)},
      {"POLICY_EMA_WARMUP", place(policy, policy.ema_warmup)},
  };
}

// What the ends of both norm passes have in common lies at the same places in both.
Layout finishes() {
  const FinishArguments step{};
  const FinishRuleArguments rule{};
  const FinishTables& both = step;
  return {
      {"PLACE_PARTIALS", place(both, both.sums.partials)},
      {"PLACE_UNIT_CHUNKS", place(both, both.sums.unit_chunks)},
      {"PLACE_UNITS", place(both, both.sums.units)},
      {"PLACE_OF_SETS", place(both, both.sums.of_sets)},
      {"PLACE_TENSORS", place(both, both.row_sums.tensors)},
      {"PLACE_LONG_ROWS", place(both, both.row_sums.long_rows)},
      {"PLACE_LONG_ROW_COUNT", place(both, both.row_sums.long_row_count)},
      {"PLACE_SHARED_ROW_COUNT", place(both, both.row_sums.shared_row_count)},
      {"PLACE_ROW_PARTIALS", place(both, both.row_sums.partials)},
      {"PLACE_ROW_FACTORS", place(both, both.row_sums.row_factors)},
      {"PLACE_SHARED_ROWS", place(both, both.row_sums.shared_rows)},
      {"PLACE_PLACE_SUMS", place(both, both.row_sums.place_sums)},
      {"PLACE_PLACES", place(both, both.row_sums.places)},
      {"PLACE_COMMON", place(both, both.common)},
      {"PLACE_GRAD_NORM", place(both, both.grad_norm)},
      {"PLACE_CLIP_FACTOR", place(both, both.clip_factor)},
      {"PLACE_COUNTERS", place(both, both.counters)},
      {"PLACE_NUMBERS", place(both, both.numbers)},
      {"PLACE_BLOCKS_DONE", place(both, both.blocks_done)},
      {"PLACE_BLOCKS", place(both, both.blocks)},
      {"PLACE_POLICY", place(both, both.modifiers.clip)},
      {"PLACE_COEFFICIENTS_COUNT", place(both, both.coefficients.count)},
      {"PLACE_SOURCES", place(both, both.coefficients.sources)},
      {"PLACE_COEFFICIENTS", place(both, both.coefficients.sets)},
      {"PLACE_FRESH", place(both, both.coefficients.fresh)},
      {"PLACE_GROUPS", place(both, both.coefficients.groups)},
      {"PLACE_ZEROS", place(both, both.coefficients.zeros)},
      {"PLACE_ZERO_RANGES", place(both, both.coefficients.zero_ranges)},
      {"PLACE_ZERO_BEGINS", place(both, both.coefficients.zero_begins)},
      {"PLACE_SHARED_ZEROS", place(both, both.coefficients.shared_zeros)},
      {"PLACE_ZERO_SETS", place(both, both.coefficients.zero_sets)},
      {"PLACE_NEXT_SCALES", place(both, both.coefficients.next_scales)},
      {"PLACE_GROUP_COUNT", place(both, both.coefficients.group_count)},
      {"PLACE_GROUP_CLIPS", place(step, step.group_clips)},
      {"PLACE_NORM_COUNT", place(step, step.norm_count)},
      {"PLACE_NORM_MEAN", place(step, step.norm_mean)},
      {"PLACE_NORM_VARIANCE", place(step, step.norm_variance)},
      {"PLACE_NORM_WINDOW", place(step, step.norm_window)},
      {"PLACE_B_SQUARED", place(step, step.b_squared)},
      {"PLACE_STEP", place(step, step.step)},
      {"PLACE_LR_SCALE", place(step, step.lr_scale)},
      {"PLACE_NORM_BOUNDS", place(step, step.norm_bounds)},
      {"PLACE_POLYAK_STEP", place(step, step.polyak_step)},
      {"PLACE_SKIP_NORMS", place(step, step.skip_norms)},
      {"PLACE_SKIP_NORM_COUNT", place(step, step.skip_norm_count)},
      {"PLACE_SKIP_LOSSES", place(step, step.skip_losses)},
      {"PLACE_SKIP_LOSS_COUNT", place(step, step.skip_loss_count)},
      {"PLACE_SKIPPED", place(step, step.skipped)},
      {"PLACE_DIRECTION_NORM", place(rule, rule.direction_norm)},
      {"PLACE_RULE_SUMS", place(rule, rule.rule_sums)},
      {"PLACE_SUM_IS_DOUBLE", place(rule, rule.sum_is_double)},
      {"PLACE_DECIDED", place(rule, rule.decided)},
  };
}

Layout exchanges() {
  const SharedRow row{};
  const SharedRange range{};
  const ShareArguments share{};
  const ZeroCount zeros{};
  return {
      {"SHARED_ROW_PLACE", place(row, row.place)},
      {"SHARED_ROW_SHARE", place(row, row.share)},
      {"SHARED_ROW_WORDS", whole<SharedRow>()},
      {"SHARED_RANGE_FIRST", place(range, range.first)},
      {"SHARED_RANGE_COUNT", place(range, range.count)},
      {"SHARED_RANGE_SHARE", place(range, range.share)},
      {"SHARED_RANGE_WORDS", whole<SharedRange>()},
      {"ZERO_COUNT_ELEMENTS", place(zeros, zeros.elements)},
      {"ZERO_COUNT_WORDS", whole<ZeroCount>()},
      {"SHARE_NUMBERS", place(share, share.numbers)},
      {"SHARE_CELLS", place(share, share.layout.cells)},
      {"SHARE_PLACES", place(share, share.layout.places)},
      {"SHARE_ZERO_CELLS", place(share, share.layout.zero_cells)},
      {"SHARE_RANGES", place(share, share.ranges)},
      {"SHARE_RANGE_BEGINS", place(share, share.range_begins)},
      {"SHARE_TENSORS", place(share, share.tensors)},
      {"SHARE_PARTIALS", place(share, share.row_sums.partials)},
      {"SHARE_ZEROS", place(share, share.zeros)},
      {"SHARE_ZERO_RANGES", place(share, share.zero_ranges)},
      {"SHARE_ZERO_BEGINS", place(share, share.zero_begins)},
      {"SHARE_ZERO_ELEMENTS", place(share, share.zero_elements)},
      {"SHARE_LOSS_SHARE", place(share, share.loss_share)},
      {"SHARE_GRADIENTS", place(share, share.gradients)},
      {"SHARE_NUMBER", place(share, share.number)},
  };
}

}  // namespace

Layout table_layout() {
  Layout all = elements();
  all.merge(coefficients());
  all.merge(finishes());
  all.merge(exchanges());
  return all;
}

}  // namespace torchclip
