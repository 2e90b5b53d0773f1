#include "plan.h"

#include <array>
#include <cstring>

namespace torchclip::triton {
namespace {

// Whole rows that a program takes one after the other, whatever their length.
constexpr int64_t kRowsTogether = 16;

// Page-locked buffers for captures with no step between them.
constexpr size_t kCaptures = 2;

py::object tensor_or_none(const at::Tensor& tensor) { return tensor.defined() ? py::cast(tensor) : py::none(); }

// The types that the kernels read a loss in.
at::Tensor readable(const at::Tensor& loss) {
  const bool is_readable = !loss.defined() || loss.scalar_type() == at::kFloat || loss.scalar_type() == at::kDouble;
  return is_readable ? loss : loss.to(at::kDouble);
}

}  // namespace

DeviceStep::DeviceStep(Place place, const RuleEntry& rule, size_t parameters, const py::object& make_launcher)
    : torchclip::DeviceStep(place, rule, parameters), launcher_(make_launcher(py::cast(place.device))) {}

Cutting DeviceStep::cutting() const {
  return {launcher_.attr("piece_bytes").cast<int64_t>(), kRowsTogether, /*by_access=*/true};
}

void DeviceStep::reserve_own() {
  finish_table_ = image_.reserve<FinishArguments>(1);
  finish_rule_table_ = image_.reserve<FinishRuleArguments>(rule_.clips_itself ? 1 : 0);
  draws_ = image_.reserve<int64_t>(4);
  spares_.clear();  // of another size; what graphs read stays
}

uint32_t DeviceStep::norm_blocks() const {
  int64_t blocks = 0;
  for (const Run& run : tables_.runs)
    if (run.is_measured) blocks += shape_.clips_rows ? run.row_count : run.count;
  return static_cast<uint32_t>(blocks);
}

uint32_t DeviceStep::direction_blocks() const {
  int64_t blocks = 0;
  for (const Run& run : tables_.runs) blocks += shape_.rule_rows ? run.row_count : run.count;
  return static_cast<uint32_t>(blocks);
}

// Through page-locked memory, so that a graph can capture it: a captured upload writes the same numbers at every
// replay.
void DeviceStep::upload(const at::Tensor& memory, Extent extent, const void* from) {
  if (place_.device.is_cpu()) {
    std::memcpy(static_cast<char*>(memory.data_ptr()) + extent.offset, from, static_cast<size_t>(extent.bytes));
    return;
  }
  at::Tensor buffer;
  if (capturing_ && !spares_.empty() && spares_.back().numel() >= extent.bytes) {
    buffer = spares_.back();
    spares_.pop_back();
  } else {
    buffer = page_locked(extent.bytes);
  }
  std::memcpy(buffer.data_ptr(), from, static_cast<size_t>(extent.bytes));
  memory.view(at::kByte)
      .narrow(0, extent.offset, extent.bytes)
      .copy_(buffer.narrow(0, 0, extent.bytes), /*non_blocking=*/true);
  if (capturing_) in_graphs_.push_back(buffer);
  while (!capturing_ && spares_.size() < kCaptures) spares_.push_back(page_locked(image_.memory().numel()));
}

at::Tensor DeviceStep::page_locked(int64_t bytes) const {
  return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
}

template <class T>
at::Tensor DeviceStep::table(Section<T> section, at::ScalarType dtype) const {
  return image_.memory().narrow(0, section.offset, section.count * static_cast<int64_t>(sizeof(T))).view(dtype);
}

template <class T>
at::Tensor DeviceStep::scratch_table(Section<T> section, at::ScalarType dtype) const {
  return scratch_.narrow(0, section.offset, section.count * static_cast<int64_t>(sizeof(T))).view(dtype);
}

// In the order of the fields of `Tables` in torchclip/backends/triton/launcher.py.
void DeviceStep::placed() {
  const FinishArguments* const layout = &finish_;
  const int64_t policy = reinterpret_cast<const char*>(&layout->modifiers) - reinterpret_cast<const char*>(layout);
  const Section<Modifiers> modifiers{finish_table_.offset + policy, 1};
  const auto factors = [&](bool has_rows, Section<double> section) -> py::object {
    return has_rows ? py::cast(scratch_table(section)) : py::none();
  };
  py::list tables;
  const auto add = [&](const at::Tensor& tensor) { tables.append(tensor); };
  add(table(tensors_, at::kLong));
  add(table(gradients_, at::kLong));
  add(table(chunks_, at::kLong));
  add(table(row_chunks_, at::kLong));
  add(table(finish_table_, at::kLong));
  add(table(finish_rule_table_, at::kLong));
  add(table(modifiers, at::kDouble));
  add(table(draws_, at::kLong));
  add(table(host_rows_, at::kDouble));
  add(scratch_table(rows_));
  add(scratch_table(partials_));
  add(scratch_table(numbers_));
  tables.append(factors(shape_.clips_rows, row_gradient_factors_));
  tables.append(factors(shape_.rule_rows, row_step_factors_));
  add(zeros_);
  launcher_.attr("place")(tables, runs(), constants());
}

// As `RunTables` there.
py::list DeviceStep::runs() const {
  py::list all;
  for (const Run& run : tables_.runs)
    all.append(py::make_tuple(run.bucket.slots, run.bucket.stages & ~kRowFactors,
                              static_cast<int>(run.bucket.parameter_dtype), static_cast<int>(run.bucket.state_dtype),
                              static_cast<int>(run.access), run.is_measured, run.first, run.count, run.first_row,
                              run.row_count, run.pieces, run.first_piece));
  return all;
}

// As `Finish` of kernels/tables.py.
py::dict DeviceStep::constants() const {
  const Modifiers& m = modifiers_;
  const bool is_single = shape_.clips_rows || measured_.grad_norm.numel() == 1;
  const bool rule_is_single = shape_.rule_rows || measured_.rule_grad_norm.numel() == 1;
  using namespace py::literals;
  return py::dict("clip"_a = static_cast<int>(m.clip_kind()), "smooth"_a = m.smooth != 0,
                  "skips_nonfinite"_a = m.on_nonfinite() != NonFinite::kPropagate, "is_single"_a = is_single,
                  "step_size"_a = static_cast<int>(m.step_size_kind()), "counts_steps"_a = m.counts_steps(),
                  "noise"_a = m.gradient_noise != 0, "lookahead"_a = shape_.lookahead,
                  "scalars"_a = static_cast<int>(rule_.scalars.size()), "fresh"_a = shape_.fresh,
                  "counts_clips"_a = !m.measures(), "sums_units"_a = rule_.sums_norms && !shape_.rule_rows,
                  "by_group"_a = !shape_.group_clips.empty(), "rule_is_single"_a = rule_is_single,
                  "clips_rows"_a = shape_.clips_rows, "rule_rows"_a = shape_.rule_rows);
}

// What CUDA's launches are handed as parameters. The numbers of a caller come as tensors, see launch().
void DeviceStep::set_own() {
  finish_.sums = sums_of(shape_.clips_rows ? row_unit_ : clip_units_, /*alone=*/true);
  finish_.grad_scale = finish_.found_inf = nullptr;
  finish_.loss = nullptr;
  image_.set(finish_table_, &finish_, /*changes_by_step=*/true);
  finish_rule_.sums = sums_of(shape_.rule_rows ? row_unit_ : rule_units_, /*alone=*/true);
  image_.set(finish_rule_table_, &finish_rule_, /*changes_by_step=*/true);
  const Extras& extras = pass_.extras;
  const std::array<int64_t, 4> draws{static_cast<int64_t>(extras.seed & 0xffffffffu),
                                     static_cast<int64_t>(extras.seed >> 32), extras.gradient_threshold,
                                     extras.lr_threshold};
  image_.set(draws_, draws.data(), /*changes_by_step=*/true);
}

void DeviceStep::launch(bool measures, bool first, bool& written) {
  try {
    launcher_.attr("run")(measures, first, tensor_or_none(given_.grad_scale), tensor_or_none(given_.found_inf),
                          tensor_or_none(finish_.b_squared != nullptr ? readable(given_.loss) : at::Tensor()));
  } catch (...) {
    written = launcher_.attr("has_updated").cast<bool>();
    throw;
  }
  written = true;
}

bool Plan::is_capturing(const Place& place, void*) const {
  if (!place.device.is_cuda()) return false;
  // Never released: at exit it would be, after the interpreter.
  static const py::handle get =
      py::object(py::module_::import("torch.cuda").attr("is_current_stream_capturing")).release();
  return get().cast<bool>();
}

uint64_t Plan::kind_of(const Inputs& inputs, bool first) const {
  const uint64_t loss = inputs.loss.defined() ? 1 + static_cast<uint64_t>(inputs.loss.scalar_type()) : 0;
  return loss << 3 | static_cast<uint64_t>(inputs.grad_scale.defined()) << 2 |
         static_cast<uint64_t>(inputs.found_inf.defined()) << 1 | static_cast<uint64_t>(first);
}

void Plan::launch(bool measures, bool first) {
  TORCH_CHECK(
      devices_.size() == 1, "the parameters are on ", devices_.size(),
      " devices, and the triton backend updates those of one device: move the model, or choose backend=\"cuda\"");
  DeviceStep& device = static_cast<DeviceStep&>(main_device());
  const DeviceGuard guard(device.place());
  device.launch(measures, first, written_);
}

}  // namespace torchclip::triton
