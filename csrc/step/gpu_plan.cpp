#include "gpu_plan.h"

#include <algorithm>

#include "../reader/dlpack.h"

namespace torchclip {
namespace {

void refuse(bool condition, const char* message) {
  if (condition) throw std::runtime_error(message);
}

}  // namespace

GpuPlan::GpuPlan(const std::string& rule, const Names& names, Scope scope, DeviceType device)
    : rule_(*find_rule(rule)),
      scope_(scope),
      reader_(rule_, names, sums_of(rule_, scope), device, /*reads_numbers=*/false),
      device_(device) {}

std::vector<int64_t> GpuPlan::refresh(const Object& param_groups, const Object& state) {
  std::vector<int64_t> attention = reader_.refresh(param_groups, state);
  // Before Python makes state, which would spoil the capture.
  refuse(!attention.empty() && capturing(), kNotReady);
  return attention;
}

void GpuPlan::configure(const Modifiers& modifiers, const std::vector<GroupClip>& group_clips) {
  modifiers_ = modifiers;
  group_clips_ = group_clips;
  reader_.configure(modifiers.lookahead_k != 0, modifiers.averages != 0, modifiers.clip_kind() == ClipKind::kUnit,
                    group_clips.size());
  reports_ = false;
  rebuild_ = true;
}

void GpuPlan::hold(Holding holding) {
  reader_.hold(std::move(holding));
  rebuild_ = true;
}

void GpuPlan::share(Sharing sharing) {
  sharing_ = std::move(sharing);
  rebuild_ = true;
}

void GpuPlan::mark_fresh(const std::vector<int64_t>& positions) {
  for (const int64_t position : positions) reader_.records()[static_cast<size_t>(position)].fresh = any_fresh_ = true;
}

Outcome GpuPlan::step(const Inputs& inputs) {
  if (reader_.records().empty() && !sharing_) return Outcome::kStepped;
  struct LetGo {
    HeldMemory& held;
    ~LetGo() { held.let_go(); }
  } const let_go{held_};
  // Their addresses are known, and what torch is asked for from here on may let another thread run, which replaces one.
  if (sharing_) {  // as an exchange does
    reader_.hold_memory(held_);
  } else {
    reader_.hold_gradients(held_);
  }
  try {
    return try_step(inputs);
  } catch (...) {
    rebuild_ = true;  // what the device holds of the tables is not known
    reports_ = false;
    throw;
  }
}

// torch's; tensors on the CPU, where kernels are emulated or interpreted, have none.
void* GpuPlan::current_stream(const DeviceId& id) const {
  return id.device.type == kCuda ? current_work_stream(id.device) : nullptr;
}

bool GpuPlan::capturing() const {
  if (reader_.records().empty()) return false;
  const DeviceId id = main_id();
  if (id.device.type != device_) return false;  // the model was moved
  const DeviceGuard guard(id);
  return is_capturing(id, current_stream(id));
}

Outcome GpuPlan::try_step(const Inputs& inputs) {
  const bool raises = modifiers_.measures() && modifiers_.on_nonfinite() == NonFinite::kError;
  refuse(raises && capturing(),
         "nonfinite=\"error\" waits for the device, and a graph that is being captured cannot: choose "
         "nonfinite=\"skip\" or \"propagate\"");
  bring_up_to_date(inputs);
  const auto has_tensors = [](const auto& device) { return !device->tables().tensors.empty(); };
  waits_ = waits_for_others(inputs);
  has_asked_ = has_decided_ = false;
  asks_ = sharing_ && (modifiers_.measures() || rule_.clips_itself || waits_);
  if (asks_) check_exchanges();
  updates_ = asks_ || std::any_of(devices_.begin(), devices_.end(), has_tensors);
  if (updates_) {
    measure_and_update(inputs);
  } else {
    main_device().measure_nothing();
  }
  reports_ = true;
  counted_ = leaves_counts(inputs);
  if (raises && refuses_norm(inputs)) return Outcome::kNonFinite;
  ++steps_;
  commit();
  return Outcome::kStepped;
}

// Tables and numbers as this step needs them.
void GpuPlan::bring_up_to_date(const Inputs& inputs) {
  may_skip_ |= modifiers_.may_skip() || static_cast<bool>(inputs.found_inf);
  const Shape wanted = shape();
  const auto is_aligned = [this](const auto& device) { return device->is_aligned_as_built(reader_); };
  if (reader_.take_changed() || rebuild_ || wanted != shape_ ||
      !std::all_of(devices_.begin(), devices_.end(), is_aligned)) {
    rebuild_ = true;
    refuse(capturing(), kNotReady);
    rebuild(wanted);
  }
  if (any_target(reader_.groups())) find_zeros();
  if (shape_.fresh && reader_.holding().has_masters()) renew_masters();
  on_each_device([&](DeviceStep& device) {
    void* const stream = current_stream(device.id());
    device.begin(reader_, modifiers_, inputs, any_fresh_, &device == &main_device(), stream,
                 is_capturing(device.id(), stream));
  });
  told_of_fresh();
}

void GpuPlan::measure_and_update(const Inputs& inputs) {
  const bool measures = modifiers_.measures(), first = finishes_first(inputs);
  const uint64_t kind = kind_of(inputs, first);
  has_decided_ = measures || first;
  const bool is_proven = std::find(proven_.begin(), proven_.end(), kind) != proven_.end();
  refuse(!is_proven && compiles_kernels() && capturing(), kNotReady);
  // A kernel that runs for the first time may be refused, or an exchange fail, when the step is counted already.
  const bool asks_behind_finish = sharing_ && rule_.clips_itself && (measures || first);  // which may fail
  const auto numbers = is_proven && !asks_behind_finish ? decltype(counted_numbers()){} : counted_numbers();
  written_ = false;
  try {
    launch(measures, first);
  } catch (...) {
    steps_ += written_;
    for (const auto& [number, before] : numbers)
      if (!written_) number.copy_from(before);
    throw;
  }
  if (!is_proven) proven_.push_back(kind);
}

// Whether a step that measures nothing goes by what other processes know: that they agree, too, where state is written
// before the exchange of a rule's own pass.
bool GpuPlan::waits_for_others(const Inputs& inputs) const {
  if (!sharing_) return false;
  const bool takes_loss = modifiers_.takes_loss() && sharing_.loss_share != 0;
  const bool writes_early = rule_.clips_itself && (shape_.rule_rows || moves_numbers());
  return takes_loss || writes_early || static_cast<bool>(inputs.found_inf) || any_target(reader_.groups());
}

void GpuPlan::check_exchanges() const {
  if (!capturing()) return;
  for (const Asked asked : {Asked::kOfPolicy, Asked::kOfRule, Asked::kOfNothing})
    refuse(
        main_device().exchange_of(asked).numbers() && !main_device().exchange_of(asked).is_capturable(),
        "this step takes sums over other processes, and their process group cannot send within a graph that is being "
        "captured: make it with backend=\"nccl\", or leave the step out of the graph");
}

void GpuPlan::ask(Asked asked) {
  if (asked == Asked::kOfNothing && !waits_) return;
  const DeviceGuard guard(main_device().id());
  main_device().exchange(asked, !std::exchange(has_asked_, true));
}

void GpuPlan::told_of_fresh() {
  if (std::exchange(any_fresh_, false))
    for (ParameterRecord& record : reader_.records()) record.fresh = false;
}

// Masters that skipped steps alone have seen follow what is written to their parameters meanwhile, as those that are
// made anew. One that stands for its parameter stays, with the bits that this has not.
void GpuPlan::renew_masters() {
  for (const auto& device : devices_) {
    const DeviceGuard guard(device->id());
    for (const size_t position : device->tables().positions) {
      const ParameterRecord& record = reader_.records()[position];
      if (record.fresh || is_as_left(record)) continue;
      const Object master = Object::take(reader().object_of(record.extra->codecs.beside[0].get()));
      const Object value = record.object.call("detach");
      const Object differs = master.call("type_as", value).call("ne", value);
      const Object unstarted = device->fresh()[static_cast<int64_t>(position)].tensor();
      master.call("copy_", torch_function("where")(differs.call("logical_and", unstarted), value, master));
    }
  }
}

// Whether the first finish of a step writes numbers of state, whatever is measured.
bool GpuPlan::moves_numbers() const {
  return modifiers_.counts_steps() || reader_.holding().draws() || modifiers_.step_size_kind() != StepSizeKind::kNone ||
         modifiers_.finds_spikes() || shape_.threshold_scales;
}

// Whether numbers on the device decide about the coefficients before anything is measured.
bool GpuPlan::finishes_first(const Inputs& inputs) const {
  const auto fits = [](const auto& device) { return device->coefficients_fit(); };
  const bool decides = shape_.fresh || moves_numbers() || (sharing_ && shape_.rule_rows) ||
                       static_cast<bool>(inputs.grad_scale) || static_cast<bool>(inputs.found_inf);
  if (decides || !std::all_of(devices_.begin(), devices_.end(), fits)) return true;
  if (rule_.clips_itself) return false;  // its own pass comes first, which needs no lr
  const auto has_lr = [](const Group& group) { return static_cast<bool>(group.lr); };
  const std::vector<Group>& groups = reader_.groups();
  return !rule_.scalars.empty() || std::any_of(groups.begin(), groups.end(), has_lr);
}

// What the end of a norm pass writes, with a copy of each.
std::vector<std::pair<Buffer, Buffer>> GpuPlan::counted_numbers() const {
  std::vector<std::pair<Buffer, Buffer>> numbers;
  const auto keep = [&](const Buffer& number) { numbers.emplace_back(number, number.clone()); };
  const auto keep_tensor = [&](const Tensor& number) {
    if (number) keep(Buffer(Object::take(reader().object_of(number.get()))));
  };
  for (const ParameterRecord& record : reader_.records()) {
    if (!record.active) continue;
    for (size_t i = 0; i < rule_.scalars.size(); ++i) keep_tensor(record.scalars[i]);
    if (record.extra != nullptr) keep_tensor(record.extra->sums);
  }
  const Object shared_key = interned({"shared"}).front();
  for (const Group& group : reader_.groups()) {
    PyObject* const shared = lookup(group.dict, shared_key);
    if (shared == nullptr || !PyDict_Check(shared)) continue;
    for (const Object& value : items_of(Object::borrow(shared).call("values").get()))
      if (is_tensor(value.get())) keep(Buffer(value));
  }
  for (const auto& device : devices_) {
    keep(device->counters());
    keep(device->fresh());
  }
  return numbers;
}

// Waits for the device. When the loss scale has overflowed, norms that are not finite are expected: the scaler handles
// them.
bool GpuPlan::refuses_norm(const Inputs& inputs) const {
  const Object& norms = main_device().measured().grad_norm.tensor();
  const Object nonfinite = torch_function("isfinite")(norms).call("logical_not");
  for (size_t group = 0; group < group_clips_.size(); ++group)
    if (static_cast<NonFinite>(group_clips_[group].nonfinite) != NonFinite::kError)
      nonfinite.call("select", to_python(0), to_python(group)).call("fill_", to_python(false));
  Object refused = nonfinite.call("any");
  if (sharing_) {
    const Buffer common = main_device().exchange_of(Asked::kOfPolicy).common();
    const auto is_zero = [&](CommonNumber number) { return common[number].tensor().call("eq", to_python(0)); };
    if (modifiers_.scope() == Scope::kTensor) refused = refused.call("logical_or", is_zero(kLost).call("logical_not"));
    refused = refused.call("logical_and", is_zero(kOverflows));
    // Of a step in which the processes disagree all hear later, in the same step.
    const Object disagreed = main_device().counters()[kDisagreed].tensor();
    refused = refused.call("logical_and", disagreed.call("eq", to_python(0)));
  } else if (inputs.found_inf) {
    const Object found = inputs.found_inf.tensor().call("to", torch_device(main_device().id().device));
    refused = refused.call("logical_and", found.call("eq", to_python(0)).call("all"));
  }
  return to_bool(refused.call("item").get());
}

void GpuPlan::commit() {
  std::vector<ParameterRecord>& records = reader_.records();
  torchclip::reader().count_versions(records.data(), 0, static_cast<int64_t>(records.size()), versions_.data());
  remember_memory();
}

}  // namespace torchclip
