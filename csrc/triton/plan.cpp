#include "plan.h"

#include <array>
#include <cstring>

namespace torchclip::triton {
namespace {

// Whole rows that a program takes one after the other, whatever their length.
constexpr int64_t kRowsTogether = 16;

// Page-locked buffers for captures with no step between them.
constexpr size_t kCaptures = 2;

Object tensor_or_none(const Buffer& buffer) { return buffer ? buffer.tensor() : none(); }

// As the last fields of `RunTables` in torchclip/backends/triton/plan_tables.py.
Object types_of(const Run& run) {
  const auto form_of = [](const Codec& codec) { return static_cast<int>(codec.form); };
  const auto dtype_of = [](const Codec& codec) { return static_cast<int>(codec.dtype); };
  Types types = run.types;
  if (!run.is_coded) {
    types.gradient = types.parameter.dtype = run.bucket.parameter_dtype;
    for (Codec& slot : types.slots) slot.dtype = run.bucket.state_dtype;
  }
  std::vector<int> forms, dtypes;
  for (const Codec& slot : types.slots) {
    forms.push_back(form_of(slot));
    dtypes.push_back(dtype_of(slot));
  }
  return make_tuple(static_cast<int>(types.gradient), dtype_of(types.parameter), form_of(types.parameter),
                    to_python(dtypes), to_python(forms));
}

// The types that the kernels read a loss in.
Buffer readable(const Buffer& loss) {
  const bool is_readable = !loss || loss.type() == kFloatType || loss.type() == kDoubleType;
  return is_readable ? loss : loss.to(loss.device(), "float64");
}

}  // namespace

DeviceStep::DeviceStep(DeviceId id, const RuleEntry& rule, size_t parameters, const Object& make_launcher)
    : torchclip::DeviceStep(id, rule, parameters), launcher_(make_launcher(torch_device(id.device))) {}

Cutting DeviceStep::cutting() const {
  return {to_int(launcher_.attribute("piece_bytes").get()), kRowsTogether, /*by_access=*/true};
}

void DeviceStep::reserve_own() {
  finish_table_ = image_.reserve<FinishArguments>(1);
  finish_rule_table_ = image_.reserve<FinishRuleArguments>(rule_.clips_itself ? 1 : 0);
  draws_ = image_.reserve<int64_t>(4);
  for (int asked = 0; asked < kAsked; ++asked)
    share_tables_[asked] = image_.reserve<ShareArguments>(exchanges_[asked].numbers() ? 1 : 0);
  spares_.clear();  // of another size; what graphs read stays
}

uint32_t DeviceStep::norm_blocks() const {
  int64_t blocks = 0;
  for (const Run& run : tables_.runs)
    if (run.is_measured) blocks += shape_.clips_rows ? run.row_count : run.count;
  if (*sharing_) ++blocks;  // no program of the pass is the last, the exchange is
  return static_cast<uint32_t>(blocks);
}

uint32_t DeviceStep::direction_blocks() const {
  int64_t blocks = 0;
  for (const Run& run : tables_.runs) blocks += shape_.rule_rows ? run.row_count : run.count;
  if (*sharing_) ++blocks;
  return static_cast<uint32_t>(blocks);
}

// Through page-locked memory, so that a graph can capture it: a captured upload writes the same numbers at every
// replay.
void DeviceStep::upload(const Buffer& memory, Extent extent, const void* from) {
  if (id_.device.is_cpu()) {
    std::memcpy(memory.values<char>() + extent.offset, from, static_cast<size_t>(extent.bytes));
    return;
  }
  Buffer buffer;
  if (capturing_ && !spares_.empty() && spares_.back().numel() >= extent.bytes) {
    buffer = spares_.back();
    spares_.pop_back();
  } else {
    buffer = Buffer::page_locked(extent.bytes);
  }
  std::memcpy(buffer.data(), from, static_cast<size_t>(extent.bytes));
  const Buffer place = memory.view("uint8").narrow(extent.offset, extent.bytes);
  place.copy_from(buffer.numel() == extent.bytes ? buffer : buffer.narrow(0, extent.bytes), /*non_blocking=*/true);
  if (capturing_) in_graphs_.push_back(buffer);
  while (!capturing_ && spares_.size() < kCaptures) spares_.push_back(Buffer::page_locked(image_.memory().numel()));
}

template <class T>
Object DeviceStep::table(Section<T> section, const char* dtype) const {
  return image_.memory().narrow(section.offset, section.count * static_cast<int64_t>(sizeof(T))).view(dtype).tensor();
}

template <class T>
Object DeviceStep::scratch_table(Section<T> section, const char* dtype) const {
  return scratch_.narrow(section.offset, section.count * static_cast<int64_t>(sizeof(T))).view(dtype).tensor();
}

// In the order of the fields of `Tables` in torchclip/backends/triton/plan_tables.py.
void DeviceStep::placed() {
  const auto factors = [&](bool has_rows, Section<double> section) {
    return has_rows ? scratch_table(section) : none();
  };
  const std::vector<Object> tables{table(tensors_, "int64"),
                                   table(gradients_, "int64"),
                                   table(chunks_, "int64"),
                                   table(row_chunks_, "int64"),
                                   table(finish_table_, "int64"),
                                   table(finish_rule_table_, "int64"),
                                   table(draws_, "int64"),
                                   table(host_coefficients_, "float64"),
                                   scratch_table(coefficients_),
                                   scratch_table(partials_),
                                   scratch_table(numbers_),
                                   factors(shape_.clips_rows, row_gradient_factors_),
                                   factors(shape_.rule_rows, row_step_factors_),
                                   zeros_.tensor(),
                                   beside_.count == 0 ? none() : table(beside_, "int64")};
  launcher_.call("place", to_python(tables), runs(), constants(), exchanges());
}

// As `DeviceExchange` there, for each of Asked.
Object DeviceStep::exchanges() const {
  std::vector<Object> all;
  for (int asked = 0; asked < kAsked; ++asked) {
    const DeviceExchange& exchange = exchanges_[asked];
    if (!exchange.numbers()) {
      all.push_back(none());
      continue;
    }
    all.push_back(make_tuple(exchange.add(), exchange.numbers().tensor(), table(share_tables_[asked], "int64"),
                             unit_sums_.tensor(), counters_.tensor(), exchange.layout().cells, exchange.sets(),
                             exchange.units()));
  }
  return to_python(all);
}

// As `RunTables` there.
Object DeviceStep::runs() const {
  std::vector<Object> all;
  for (const Run& run : tables_.runs)
    all.push_back(make_tuple(static_cast<int64_t>(run.bucket.slots),
                             static_cast<int64_t>(run.bucket.stages & ~kRowFactors),
                             static_cast<int>(run.bucket.parameter_dtype), static_cast<int>(run.bucket.state_dtype),
                             static_cast<int>(run.access), run.is_measured, run.first, run.count, run.first_row,
                             run.row_count, run.pieces, run.first_piece, types_of(run)));
  return to_python(all);
}

// As `Finish` of kernels/constants.py.
Object DeviceStep::constants() const {
  const Modifiers& m = modifiers_;
  const Object all = make_dict();
  const auto add = [&](const char* name, auto value) { put(all, name, to_python(value)); };
  add("clip", static_cast<int>(m.clip_kind()));
  add("smooth", m.smooth != 0);
  add("skips_nonfinite", m.on_nonfinite() != NonFinite::kPropagate);
  add("is_single", shape_.clips_rows || measured_.grad_norm.numel() == 1);
  add("step_size", static_cast<int>(m.step_size_kind()));
  add("counts_steps", m.counts_steps() || rounds_by_draws_);
  add("noise", m.gradient_noise != 0);
  add("lookahead", shape_.lookahead);
  add("scalars", static_cast<int>(rule_.scalars.size()));
  add("fresh", shape_.fresh);
  add("counts_clips", !m.measures());
  add("sums_units", rule_.sums_norms && !shape_.rule_rows);
  add("by_group", !shape_.group_clips.empty());
  add("skip_norm", m.skip_norm != 0);
  add("skip_loss", m.skip_loss != 0);
  add("growth", m.growth > 0);
  add("averages", m.averages != 0);
  add("threshold_scales", shape_.threshold_scales);
  add("rule_is_single", shape_.rule_rows || measured_.rule_grad_norm.numel() == 1);
  add("clips_rows", shape_.clips_rows);
  add("rule_rows", shape_.rule_rows);
  add("in_parts", !sharing_->places.empty());
  add("takes_loss", *sharing_ && sharing_->loss_share != 0);
  return all;
}

// What CUDA's launches are handed as parameters. The numbers of a caller come as tensors, see launch().
void DeviceStep::set_own() {
  finish_.sums = sums_of(shape_.clips_rows ? row_unit_ : clip_units_, /*alone=*/true);
  finish_.grad_scale = finish_.found_inf = nullptr;
  finish_.loss = nullptr;
  finish_rule_.sums = sums_of(shape_.rule_rows ? row_unit_ : rule_units_, /*alone=*/true);
  if (*sharing_) set_exchanges();
  image_.set(finish_table_, &finish_, /*changes_by_step=*/true);
  image_.set(finish_rule_table_, &finish_rule_, /*changes_by_step=*/true);
  const Extras& extras = pass_.extras;
  const std::array<int64_t, 4> draws{static_cast<int64_t>(extras.seed & 0xffffffffu),
                                     static_cast<int64_t>(extras.seed >> 32), extras.gradient_threshold,
                                     extras.lr_threshold};
  image_.set(draws_, draws.data(), /*changes_by_step=*/true);
}

// Which of them a step asks for, and what is done with the answer, is in the launcher.
void DeviceStep::set_exchanges() {
  const bool measures = modifiers_.measures();
  for (const Asked asked : {Asked::kOfPolicy, Asked::kOfRule, Asked::kOfNothing}) {
    const size_t index = static_cast<size_t>(asked);
    const DeviceExchange& exchange = exchanges_[index];
    if (!exchange.numbers()) continue;
    const bool is_first = asked == Asked::kOfPolicy || !measures;
    const ShareArguments share = share_arguments(asked, /*is_first=*/true);
    image_.set(share_tables_[index], &share, /*changes_by_step=*/true);
    if (asked == Asked::kOfNothing && measures) continue;
    take_exchange(asked, is_first);
    UnitSums& sums = asked == Asked::kOfRule ? finish_rule_.sums : finish_.sums;
    if (exchange.sets() > 1) sums.of_sets = unit_sums_.values<UnitSum>();
  }
}

void DeviceStep::share(const ShareArguments&) { throw std::logic_error("the launcher of Triton's kernels exchanges"); }

void DeviceStep::launch(bool measures, bool first, bool waits, bool& written) {
  const Buffer loss = modifiers_.takes_loss() ? readable(given_.loss) : Buffer();
  try {
    launcher_.call("run", to_python(measures), to_python(first), to_python(waits), tensor_or_none(given_.grad_scale),
                   tensor_or_none(given_.found_inf), tensor_or_none(loss));
  } catch (...) {
    written = to_bool(launcher_.attribute("has_updated").get());
    throw;
  }
  written = true;
}

bool Plan::is_capturing(const DeviceId& id, void*) const {
  if (id.device.is_cpu()) return false;
  static PyObject* const get = kept_attribute("torch.cuda", "is_current_stream_capturing");
  return to_bool(Object::borrow(get)().get());
}

uint64_t Plan::kind_of(const Inputs& inputs, bool first) const {
  const ElementType type = inputs.loss.type();
  const uint64_t loss = inputs.loss ? 1 + (static_cast<uint64_t>(type.code) << 8 | type.bits) : 0;
  return loss << 3 | static_cast<uint64_t>(static_cast<bool>(inputs.grad_scale)) << 2 |
         static_cast<uint64_t>(static_cast<bool>(inputs.found_inf)) << 1 | static_cast<uint64_t>(first);
}

void Plan::launch(bool measures, bool first) {
  if (devices_.size() != 1)
    throw std::runtime_error("the parameters are on " + std::to_string(devices_.size()) +
                             " devices, and the triton backend updates those of one device: move the model, or choose "
                             "backend=\"cuda\"");
  DeviceStep& device = static_cast<DeviceStep&>(main_device());
  const DeviceGuard guard(device.id());
  device.launch(measures, first, waits(), written_);
}

}  // namespace torchclip::triton
