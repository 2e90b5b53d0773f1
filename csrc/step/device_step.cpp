#include "device_step.h"

#include <algorithm>

#include "../reader/tensor_info.h"
#include "make_coefficients.h"

namespace torchclip {

void DeviceStep::begin(const ParameterReader& reader, const Modifiers& modifiers, const Inputs& inputs, bool any_fresh,
                       bool is_main, void* stream, bool capturing) {
  follow_stream(stream, capturing);
  is_main_ = is_main;
  modifiers_ = modifiers;
  held_.clear();
  read_tensors(reader);
  if (rule_sums_.count > 0) read_rule_sums(reader);
  write_tables();
  finish_.modifiers = finish_rule_.modifiers = modifiers;
  finish_rule_.numbers = nullptr;
  pass_.numbers = nullptr;
  pass_.coefficients = nullptr;
  if (*sharing_) forget_exchanges();
  read_gradients(reader);
  read_groups(reader);
  read_shared(reader, inputs);
  if (coefficients_fit()) fill_coefficients(reader);
  set_own();
  image_.write(writes_in_one(), [this](Extent extent, const char* from) { upload(image_.memory(), extent, from); });
  if (shape_.fresh && any_fresh) upload_fresh(reader.records());
}

// The allocator must know of every stream that uses a buffer, so that it gives none away too early; and what a graph
// that is being captured will use must stay.
void DeviceStep::follow_stream(void* stream, bool capturing) {
  stream_ = stream;
  capturing_ = capturing;
  is_in_graph_ |= capturing_;
  if (std::find(streams_.begin(), streams_.end(), stream) != streams_.end()) return;
  streams_.push_back(stream);
  if (streams_.size() == 1 || id_.device.is_cpu()) return;
  const Object current = torch_function("cuda").call("current_stream", to_python(id_.device.index));
  for (const Buffer& buffer : buffers()) buffer.tensor().call("record_stream", current);
}

void DeviceStep::read_tensors(const ParameterReader& reader) {
  for (size_t index = 0; index < tables_.tensors.size(); ++index) {
    const ParameterRecord& record = reader.records()[tables_.positions[index]];
    DeviceTensor& tensor = tables_.tensors[index];
    for (int operand = 0; operand < kSlow; ++operand)
      tensor.pointer[operand] = operand == kGradient ? nullptr : record.operands.pointer[operand];
    if (record.extra != nullptr) {
      tensor.pointer[kSlow] = shape_.lookahead ? record.extra->slow_values : nullptr;
      tensor.sums = shape_.rule_rows && record.extra->sums ? record.extra->sum_values : nullptr;
    }
    if (!tables_.beside.empty()) {
      const Beside& memory = record.extra->codecs.memory;
      DeviceBeside& beside = tables_.beside[index];
      beside.parameter = memory.parameter;
      std::copy(std::begin(memory.absmax), std::end(memory.absmax), beside.absmax);
    }
    CoefficientSource& source = tables_.sources[static_cast<size_t>(tensor.coefficients)];
    for (size_t i = 0; i < rule_.scalars.size(); ++i) source.scalars[i] = record.scalar_values[i];
  }
}

// The tables that name tensors, which change when a tensor moves. A graph records no writing of them where they are
// right, as they nearly always are, so that a replay has nothing to do about them: what it reads must stay as it is,
// and other steps get tables of their own.
void DeviceStep::write_tables() {
  const auto differ = [this] {
    return image_.differs(tensors_, tables_.tensors) || image_.differs(beside_, tables_.beside) ||
           image_.differs(sources_, tables_.sources) || image_.differs(rule_sums_, rule_sum_places_) ||
           image_.differs(sum_is_double_, rule_sum_is_double_);
  };
  if (image_.is_shared() && differ()) {
    if (capturing_) throw std::runtime_error(kNotReady);
    move_image();
  }
  image_.begin_step(capturing_);
  image_.set(tensors_, tables_.tensors);
  image_.set(beside_, tables_.beside);
  image_.set(sources_, tables_.sources);
  image_.set(rule_sums_, rule_sum_places_);
  image_.set(sum_is_double_, rule_sum_is_double_);
}

// To memory that no graph reads.
void DeviceStep::move_image() {
  kept_.push_back(image_.memory());
  image_.allocate(id_.device);
  // The other streams are to be told of it too.
  streams_.assign(1, stream_);
  set_layouts();
  set_static_arguments();
  placed();
}

bool DeviceStep::is_aligned_as_built(const ParameterReader& reader) const {
  for (size_t index = 0; index < tables_.aligned.size(); ++index)
    if (is_aligned(reader.records()[tables_.positions[index]], shape_.lookahead) != (tables_.aligned[index] != 0))
      return false;
  return true;
}

void DeviceStep::read_gradients(const ParameterReader& reader) {
  std::vector<const void*> addresses(static_cast<size_t>(gradients_.count));
  const void** const written = gradients_.count > 0 ? addresses.data() : pass_.inline_gradients;
  for (size_t index = 0; index < tables_.tensors.size(); ++index)
    written[index] = reader.records()[tables_.positions[index]].operands.pointer[kGradient];
  image_.set(gradients_, addresses, /*changes_by_step=*/true);
}

void DeviceStep::read_groups(const ParameterReader& reader) {
  std::vector<GroupNumbers> all(reader.groups().size());
  for (size_t index = 0; index < all.size(); ++index) {
    const Group& group = reader.groups()[index];
    GroupNumbers& numbers = all[index];
    std::copy(group.hyperparameters.begin(), group.hyperparameters.end(), numbers.hyperparameters);
    numbers.weight_decay = group.pipeline[kWeightDecay];
    numbers.decoupled = group.pipeline[kDecoupled];
    numbers.maximize = group.pipeline[kMaximize];
    if (shape_.threshold_scales) read_threshold(group, index, numbers);
    if (!group.lr) continue;
    const Buffer lr = Buffer(group.lr).to(id_.device);
    held_.push_back(lr);
    numbers.lr = lr.data();
    numbers.lr_is_double = lr.type() == kDoubleType ? 1 : 0;
  }
  if (groups_.count > 0) return image_.set(groups_, all, /*changes_by_step=*/true);
  std::copy(all.begin(), all.end(), finish_.coefficients.inline_groups);
  std::copy(all.begin(), all.end(), finish_rule_.coefficients.inline_groups);
}

// AdaGradNorm's sums, where they are not taken over rows.
void DeviceStep::read_rule_sums(const ParameterReader& reader) {
  std::vector<void*>& places = rule_sum_places_;
  std::vector<int32_t>& is_double = rule_sum_is_double_;
  places.assign(static_cast<size_t>(rule_sums_.count), nullptr);
  is_double.assign(places.size(), 1);
  if (shape_.rule_scope == Scope::kTensor) {
    for (const size_t position : tables_.positions) {
      const RecordExtra& extra = *reader.records()[position].extra;
      places[position] = extra.sum_values;
      is_double[position] = extra.sum_is_double ? 1 : 0;
    }
  } else {
    for (const ParameterRecord& record : reader.records()) {
      const size_t unit = unit_of(shape_.rule_scope, record.group, 0);
      // A group without a gradient has no place: its sum stays, and its factor is 1.
      const bool counts = record.active || static_cast<bool>(*sharing_);  // others may have one
      if (!counts || places[unit] != nullptr) continue;
      const GroupState shared = shared_of(reader.groups()[unit]);
      places[unit] = beside("sum " + std::to_string(unit), shared.tensor("sum")).data();
    }
  }
}

// They lie on the main device, that of the first parameter; the others take copies.
GroupState DeviceStep::shared_of(const Group& group) const {
  const DeviceType type = id_.device.is_cpu() ? kCpu : kCuda;
  return GroupState(group.dict, type, is_main_ ? id_.device.index : -1);
}

void DeviceStep::read_shared(const ParameterReader& reader, const Inputs& inputs) {
  const GroupState shared = shared_of(reader.groups().front());
  const auto number = [&](const char* name, int64_t length = GroupState::kOneNumber) {
    return beside(name, shared.tensor(name, length)).values<double>();
  };
  const Modifiers& m = modifiers_;
  const bool draws = m.draws() || rounds_by_draws_;
  finish_.step = draws || m.counts_steps() ? number("step") : nullptr;
  finish_.b_squared = m.step_size_kind() == StepSizeKind::kLoss ? number("b_squared") : nullptr;
  const bool percentile = m.clip_kind() == ClipKind::kPercentile, z_score = m.clip_kind() == ClipKind::kZScore;
  finish_.norm_window = percentile ? number("norm_window", static_cast<int64_t>(m.window)) : nullptr;
  const bool bounds = m.clip_kind() == ClipKind::kTensorBound;
  finish_.norm_count = percentile || z_score || bounds ? number("norm_count") : nullptr;
  finish_.norm_bounds = bounds ? number("norm_bounds", static_cast<int64_t>(reader.records().size())) : nullptr;
  finish_.norm_mean = z_score ? number("norm_mean") : nullptr;
  finish_.norm_variance = z_score ? number("norm_variance") : nullptr;
  finish_.polyak_step = m.growth > 0 ? number("polyak_step") : nullptr;
  const int64_t window = static_cast<int64_t>(m.skip_window);
  finish_.skip_norms = m.skip_norm != 0 ? number("skip_norms", window) : nullptr;
  finish_.skip_norm_count = m.skip_norm != 0 ? number("skip_norm_count") : nullptr;
  finish_.skip_losses = m.skip_loss != 0 ? number("skip_losses", window) : nullptr;
  finish_.skip_loss_count = m.skip_loss != 0 ? number("skip_loss_count") : nullptr;
  const auto given = [&](const Buffer& tensor, ElementType type) {
    return tensor ? on_device(tensor, type) : Buffer();
  };
  DType loss_dtype = DType::kFloat64;
  const bool as_is = inputs.loss && storage_dtype(inputs.loss.type(), loss_dtype);
  given_ = {given(inputs.grad_scale, kFloatType), given(inputs.found_inf, kFloatType),
            given(inputs.loss, as_is ? inputs.loss.type() : kDoubleType)};
  finish_.grad_scale = given_.grad_scale.values<float>();
  finish_.found_inf = given_.found_inf.values<float>();
  finish_.loss = given_.loss.data();
  finish_.loss_dtype = static_cast<int32_t>(loss_dtype);
  pass_.extras = Extras{};
  if (draws) pass_.extras.seed = shared.seed();
  pass_.extras.gradient_threshold = static_cast<uint32_t>(m.gradient_threshold);
  pass_.extras.lr_threshold = static_cast<uint32_t>(m.lr_threshold);
  pass_.extras.averages = m.averages != 0;
}

// As they are before any norm and any number on the device is known.
Coefficients DeviceStep::coefficients_before_norms(const Group& group) const {
  Coefficients made =
      make_coefficients(group.pipeline[kLr], group.pipeline[kWeightDecay], group.pipeline[kDecoupled] != 0,
                        group.pipeline[kMaximize] != 0, modifiers_, 0.0, 1.0);
  if (rule_.scalars.empty())  // else a finish makes them
    rule_.compute(group.hyperparameters.data(), nullptr, false, DirectionNorms{}, made.rule);
  return made;
}

// For passes that come before a finish.
void DeviceStep::fill_coefficients(const ParameterReader& reader) {
  if (host_coefficients_.count == 0 && !rides_along()) return;
  std::vector<Coefficients> sets(static_cast<size_t>(host_coefficients_.count));
  Coefficients* const written = host_coefficients_.count > 0 ? sets.data() : pass_.inline_coefficients;
  for (size_t index = 0; index < tables_.sources.size(); ++index)
    written[index] = coefficients_before_norms(reader.groups()[static_cast<size_t>(tables_.sources[index].group)]);
  image_.set(host_coefficients_, sets, /*changes_by_step=*/true);
}

// This pass's own partial sums, or what all devices have gathered. Other processes are asked by a launch of its own.
UnitSums DeviceStep::sums_of(Section<int32_t> units, bool alone) const {
  if (*sharing_) return {nullptr, nullptr, 0, 0, nullptr, unit_sums_.values<UnitSum>()};
  UnitSums sums{scratch(partials_), image_.at(units), static_cast<int32_t>(units.count) - 1};
  if (!alone) sums.write_to = unit_sums_.values<UnitSum>();
  return sums;
}

void DeviceStep::upload_fresh(const std::vector<ParameterRecord>& records) {
  for (size_t begin = 0; begin < records.size();) {
    size_t end = begin;
    while (end < records.size() && records[end].fresh) ++end;
    const std::vector<int32_t> ones(end - begin, 1);
    const auto bytes = [](size_t count) { return static_cast<int64_t>(count * sizeof(int32_t)); };
    if (!ones.empty()) upload(fresh_, {bytes(begin), bytes(ones.size())}, ones.data());
    begin = end + 1;
  }
}

void DeviceStep::measure_nothing() {
  for (const Buffer& norm : {measured_.grad_norm, measured_.rule_grad_norm, measured_.direction_norm}) norm.fill(0.0);
  for (const Buffer& factor : {measured_.clip_factor, measured_.rule_clip_factor}) factor.fill(1.0);
}

Buffer DeviceStep::beside(const std::string& name, const Buffer& tensor) {
  if (is_main_) return tensor;
  Buffer& copy = copies_[name];
  if (!copy || copy.numel() != tensor.numel())
    copy = Buffer::empty(tensor.numel(), tensor.type() == kLongType ? "int64" : "float64", id_.device);
  copy.copy_from(Buffer(tensor.tensor().call("reshape", to_python(-1))), /*non_blocking=*/true);
  return copy;
}

// Of the type: float32, float64, or that which it has.
Buffer DeviceStep::on_device(const Buffer& tensor, ElementType type) const {
  if (tensor.type() == type) return tensor.to(id_.device);
  return tensor.to(id_.device, type == kFloatType ? "float32" : "float64");
}

}  // namespace torchclip
