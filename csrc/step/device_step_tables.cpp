// The tables and the memory of one device's share of a step, made when its structure changes.
#include <algorithm>

#include "device_step.h"

namespace torchclip {
namespace {

int32_t rule_number(const RuleEntry& rule) { return static_cast<int32_t>(&rule - rule_table().data()); }

}  // namespace

DeviceStep::DeviceStep(DeviceId id, const RuleEntry& rule, size_t parameters) : id_(id), rule_(rule) {
  counters_ = Buffer::zeros({kCounters}, "float64", id_.device);
  fresh_ = Buffer::zeros({static_cast<int64_t>(parameters)}, "int32", id_.device);
}

void DeviceStep::move_fresh(const std::vector<int64_t>& from) {
  const int64_t count = static_cast<int64_t>(from.size());
  bool moves = fresh_.numel() != count;
  for (int64_t position = 0; position < count; ++position) moves |= from[static_cast<size_t>(position)] != position;
  if (!moves) return;
  if (is_in_graph_) kept_.push_back(fresh_);
  if (std::all_of(from.begin(), from.end(), [](int64_t place) { return place < 0; })) {
    fresh_ = Buffer::zeros({count}, "int32", id_.device);
    return;
  }
  const Buffer index = Buffer::empty(count, "int64", Device{}), keep = Buffer::empty(count, "int32", Device{});
  for (int64_t position = 0; position < count; ++position) {
    const int64_t place = from[static_cast<size_t>(position)];
    const bool known = place >= 0 && place < fresh_.numel();
    index.values<int64_t>()[position] = known ? place : 0;
    keep.values<int32_t>()[position] = known ? 1 : 0;
  }
  const Object moved = fresh_.tensor().call("index_select", to_python(0), index.to(id_.device).tensor());
  fresh_ = Buffer(moved.call("mul_", keep.to(id_.device).tensor()));
}

// What a kernel writes or reads here, all of it allocated by build().
std::vector<Buffer> DeviceStep::buffers() const {
  std::vector<Buffer> all{image_.memory(),
                          scratch_,
                          zeros_,
                          gathered_zeros_,
                          unit_sums_,
                          gathered_sums_,
                          measured_.grad_norm,
                          measured_.clip_factor,
                          measured_.rule_grad_norm,
                          measured_.rule_clip_factor,
                          measured_.direction_norm,
                          measured_.lr_scale,
                          measured_.skipped};
  for (const DeviceExchange& exchange : exchanges_)
    if (exchange.numbers()) all.push_back(exchange.numbers());
  return all;
}

void DeviceStep::build(const ParameterReader& reader, const Modifiers& modifiers, const Shape& shape,
                       const std::vector<size_t>& positions, size_t devices, const Sharing& sharing) {
  if (is_in_graph_)
    for (const Buffer& buffer : buffers()) kept_.push_back(buffer);
  is_in_graph_ = false;
  streams_.clear();
  modifiers_ = modifiers;
  rounds_by_draws_ = reader.holding().draws();
  shape_ = shape;
  devices_ = static_cast<int32_t>(devices);
  sharing_ = &sharing;
  tables_ = build_tables(rule_, reader, shape, cutting(), positions, sharing);
  reserve_tables(reader);
  reserve_scratch(reader);
  pass_ = PassArguments{};
  plan_launches();
  set_static_arguments();
  placed();
}

void DeviceStep::reserve_tables(const ParameterReader& reader) {
  image_ = DeviceImage();
  tensors_ = image_.reserve<DeviceTensor>(tables_.tensors.size());
  beside_ = image_.reserve<DeviceBeside>(tables_.beside.size());
  layouts_ = image_.reserve<int64_t>(tables_.layouts.size());
  chunks_ = image_.reserve<DeviceChunk>(tables_.chunks.size());
  row_chunks_ = image_.reserve<DeviceRowChunk>(tables_.row_chunks.size());
  long_rows_ = image_.reserve<DeviceLongRow>(tables_.long_rows.size());
  sources_ = image_.reserve<CoefficientSource>(tables_.sources.size());
  clip_units_ = image_.reserve<int32_t>(tables_.clip_units.size());
  rule_units_ = image_.reserve<int32_t>(tables_.rule_units.size());
  row_unit_ = image_.reserve<int32_t>(tables_.row_unit.size());
  group_clips_ = image_.reserve<GroupClip>(shape_.group_clips.size());
  zero_ranges_ = image_.reserve<ZeroRange>(devices_ > 1 ? tables_.group_elements.size() : tables_.zero_ranges.size());
  zero_begins_ = image_.reserve<int32_t>(tables_.zero_begins.size());
  const size_t sums = rule_.sums_norms && !shape_.rule_rows ? unit_count(shape_.rule_scope, reader) : 0;
  rule_sums_ = image_.reserve<void*>(sums);
  sum_is_double_ = image_.reserve<int32_t>(sums);
  const size_t tensors = tables_.tensors.size(), groups = reader.groups().size();
  // What changes from step to step lies together.
  gradients_ = image_.reserve<const void*>(!rides_along() || tensors > kInlineGradients ? tensors : 0);
  groups_ = image_.reserve<GroupNumbers>(!rides_along() || groups > kInlineGroups ? groups : 0);
  const bool fills_coefficients = !rides_along() && rule_.scalars.empty();
  host_coefficients_ = image_.reserve<Coefficients>(fills_coefficients ? tables_.sources.size() : 0);
  for (DeviceExchange& exchange : exchanges_) exchange = DeviceExchange();
  if (*sharing_) reserve_exchanges(reader);
  reserve_own();
  image_.allocate(id_.device);
  set_layouts();
  rule_sum_places_.clear();
  rule_sum_is_double_.clear();
  image_.set(layouts_, tables_.layouts);
  image_.set(chunks_, tables_.chunks);
  image_.set(row_chunks_, tables_.row_chunks);
  image_.set(long_rows_, tables_.long_rows);
  image_.set(clip_units_, tables_.clip_units);
  image_.set(rule_units_, tables_.rule_units);
  image_.set(row_unit_, tables_.row_unit);
  image_.set(group_clips_, shape_.group_clips);
  set_zero_ranges();
  for (const DeviceExchange& exchange : exchanges_) exchange.set(image_);
}

// Where the layouts of strided tensors lie.
void DeviceStep::set_layouts() {
  for (size_t index = 0; index < tables_.tensors.size(); ++index)
    if (tables_.layout_offsets[index] >= 0)
      tables_.tensors[index].layout = image_.at(layouts_) + tables_.layout_offsets[index];
}

void DeviceStep::reserve_scratch(const ParameterReader& reader) {
  int64_t bytes = 0;
  const auto reserve = [&]<class T>(Section<T>& section, int64_t count) {
    section = {bytes, count};
    bytes += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
  };
  reserve(coefficients_, static_cast<int64_t>(tables_.sources.size()));
  reserve(next_scalars_, static_cast<int64_t>(tables_.sources.size()) * kMaxScalars);
  reserve(next_scales_, static_cast<int64_t>(tables_.group_elements.size()));
  reserve(partials_, tables_.partials());
  reserve(numbers_, 1);
  reserve(blocks_done_, 2);
  reserve(row_gradient_factors_, shape_.clips_rows ? tables_.row_total : 0);
  reserve(row_step_factors_, shape_.rule_rows ? tables_.row_total : 0);
  const auto zeros = [&](int64_t count) { return Buffer::zeros({count}, "float64", id_.device); };
  scratch_ = Buffer::zeros({bytes}, "uint8", id_.device);
  // Not without memory where other processes have zeros: see CoefficientArguments.
  const int64_t pieces = std::max<int64_t>(tables_.pieces(), *sharing_ ? 1 : 0);
  zeros_ = Buffer::zeros({rule_.counts_zeros ? pieces : 0}, "int64", id_.device);
  const bool gathers = shape_.threshold_scales && devices_ > 1;
  const int64_t groups = static_cast<int64_t>(reader.groups().size());
  gathered_zeros_ = Buffer::zeros({gathers ? groups * devices_ : 0}, "int64", id_.device);
  const int64_t clip_units = static_cast<int64_t>(tables_.clip_units.size()) - 1;
  const int64_t rule_units = static_cast<int64_t>(unit_count(shape_.rule_scope, reader));
  const auto number = [&] { return Buffer::zeros({}, "float64", id_.device); };
  measured_ = {zeros(clip_units), zeros(clip_units), zeros(rule_units), zeros(rule_units),
               zeros(rule_units), number(),          number()};
  const int64_t shared =
      devices_ > 1 || *sharing_ ? std::max(clip_units, rule_units) * ExchangeLayout::kIn<UnitSum> : 0;
  unit_sums_ = zeros(shared);
  gathered_sums_ = zeros(devices_ * shared);
}

void DeviceStep::set_static_arguments() {
  pass_.tensors = image_.at(tensors_);
  pass_.beside = image_.at(beside_);
  pass_.gradients = gradients_.count > 0 ? image_.at(gradients_) : nullptr;
  pass_.partials = scratch(partials_);
  CoefficientArguments coefficients{};
  coefficients.rule = rule_number(rule_);
  coefficients.count = static_cast<int32_t>(tables_.sources.size());
  coefficients.sources = image_.at(sources_);
  coefficients.sets = scratch(coefficients_);
  coefficients.next_scalars = scratch(next_scalars_);
  coefficients.fresh = shape_.fresh ? fresh_.values<int32_t>() : nullptr;
  coefficients.groups = groups_.count > 0 ? image_.at(groups_) : nullptr;
  const Buffer& zeros = devices_ > 1 ? gathered_zeros_ : zeros_;
  coefficients.zeros = shape_.threshold_scales ? zeros.values<int64_t>() : nullptr;
  coefficients.zero_ranges = image_.at(zero_ranges_);
  coefficients.zero_begins = image_.at(zero_begins_);
  coefficients.next_scales = scratch(next_scales_);
  coefficients.group_count = static_cast<int32_t>(next_scales_.count);
  RowSums row_sums{};
  row_sums.tensors = image_.at(tensors_);
  row_sums.long_rows = image_.at(long_rows_);
  row_sums.long_row_count = static_cast<int32_t>(tables_.long_rows.size());
  row_sums.partials = scratch(partials_);
  const auto numbers = [](const Buffer& buffer) { return buffer.values<double>(); };
  finish_ = FinishArguments{};
  finish_.row_sums = row_sums;
  if (shape_.clips_rows) finish_.row_sums.row_factors = scratch(row_gradient_factors_);
  finish_.row_sums.shared_rows = exchange_of(Asked::kOfPolicy).rows(image_);
  finish_.group_clips = group_clips_.count > 0 ? image_.at(group_clips_) : nullptr;
  finish_.grad_norm = numbers(measured_.grad_norm);
  finish_.clip_factor = numbers(measured_.clip_factor);
  finish_.counters = numbers(counters_);
  finish_.lr_scale = numbers(measured_.lr_scale);
  finish_.skipped = numbers(measured_.skipped);
  finish_.numbers = scratch(numbers_);
  finish_.blocks_done = scratch(blocks_done_);
  finish_.blocks = norm_blocks();
  finish_.coefficients = coefficients;
  finish_rule_ = FinishRuleArguments{};
  finish_rule_.row_sums = row_sums;
  if (shape_.rule_rows) finish_rule_.row_sums.row_factors = scratch(row_step_factors_);
  finish_rule_.row_sums.shared_rows = exchange_of(Asked::kOfRule).rows(image_);
  finish_rule_.grad_norm = numbers(measured_.rule_grad_norm);
  finish_rule_.direction_norm = numbers(measured_.direction_norm);
  finish_rule_.clip_factor = numbers(measured_.rule_clip_factor);
  finish_rule_.counters = shape_.clips_norms || shape_.clips_rows ? nullptr : numbers(counters_);
  finish_rule_.rule_sums = rule_sums_.count > 0 ? image_.at(rule_sums_) : nullptr;
  finish_rule_.sum_is_double = sum_is_double_.count > 0 ? image_.at(sum_is_double_) : nullptr;
  finish_rule_.decided = *sharing_ ? scratch(numbers_) : nullptr;
  finish_rule_.blocks_done = scratch(blocks_done_) + 1;
  finish_rule_.blocks = direction_blocks();
  finish_rule_.coefficients = coefficients;
}

}  // namespace torchclip
