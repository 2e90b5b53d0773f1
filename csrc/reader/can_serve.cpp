// Which parameters, gradients and states the passes serve, and how to walk them.
#include <algorithm>
#include <numeric>

#include "parameter_reader.h"
#include "tensor_info.h"

namespace torchclip {
namespace {

// `order`: of the dimensions of the real view, from the outermost to the innermost. Which rows there are is up to the
// parameter's own dimensions: the parts of a complex number lie in one row.
Rows rows_of(const TensorInfo& parameter, const std::vector<size_t>& order) {
  const std::vector<int64_t> sizes = sizes_of(parameter);
  int64_t numel = 1, inner = 1;
  for (const int64_t size : sizes) numel *= size;
  if (parameter.dim < 2 || sizes[0] == 1) return {1, std::max<int64_t>(numel, 1)};
  for (size_t i = order.size(); i-- > 0 && order[i] != 0;) inner *= sizes[order[i]];
  return {sizes[0], std::max<int64_t>(inner, 1)};
}

}  // namespace

// What a step of a parameter reads and writes. Sizes and strides are those of tensors that others hold.
struct ParameterReader::Described {
  TensorInfo parameter, gradient, slots[kMaxSlots], slow, beside;
};

bool ParameterReader::is_beside(const TensorInfo& tensor, const TensorInfo& parameter) const {
  return tensor.device.type == device_ && tensor.device == parameter.device;
}

// State is written, and an inference tensor is not for torch.
bool ParameterReader::describe_state(const Tensor& tensor, const TensorInfo& parameter, TensorInfo& info) const {
  return tensor && reader().describe(tensor.get(), /*writes=*/true, info) && is_beside(info, parameter) &&
         !info.is_inference;
}

// Whether the passes serve this parameter, gradient and state, and how to walk them.
bool ParameterReader::can_serve(ParameterRecord& record, const Tensor& gradient) {
  Described all;
  if (!reader().describe_object(record.object.get(), /*writes=*/true, all.parameter)) return false;
  const TensorInfo& parameter = all.parameter;
  if (!storage_dtype(parameter.type, record.dtype) || parameter.device.type != device_) return false;
  if (parameter.is_inference) return false;  // which has no version to count up
  if (is_complex(parameter) && !takes_complex_) return false;
  if (!reader().describe(gradient.get(), /*writes=*/false, all.gradient)) return false;
  if (!is_beside(all.gradient, parameter)) return false;
  if (!same_sizes(all.gradient, parameter)) return false;
  record.operands.count = count_of(parameter);
  if (holding_.is_given() ? !describe_held(record, all) : all.gradient.type != parameter.type) return false;
  return (holding_.is_given() || describe_slots(record, all)) && describe_scalars(record, parameter) &&
         describe_extras(record, all) && map_layout(record, all);
}

bool ParameterReader::describe_slots(ParameterRecord& record, Described& all) const {
  record.state_dtype = record.dtype;
  for (size_t slot = 0, seen = 0; slot < slot_keys_.size(); ++slot) {
    if ((record.used_slots >> slot & 1u) == 0) continue;
    TensorInfo& tensor = all.slots[slot];
    DType dtype = record.dtype;
    if (!describe_state(record.slots[slot], all.parameter, tensor) || !storage_dtype(tensor.type, dtype)) return false;
    if (is_complex(tensor) != is_complex(all.parameter)) return false;
    if (!same_sizes(tensor, all.parameter) || (seen++ != 0 && dtype != record.state_dtype)) return false;
    record.state_dtype = dtype;
  }
  const bool half = record.dtype == DType::kBFloat16 || record.dtype == DType::kFloat16;
  return record.state_dtype == record.dtype || (half && record.state_dtype == DType::kFloat32);
}

// State under a precision policy, which says what types it is of, and what is kept beside it.
bool ParameterReader::describe_held(ParameterRecord& record, Described& all) const {
  const TensorInfo& parameter = all.parameter;
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
    if ((record.used_slots >> slot & 1u) != 0)
      if (!describe_state(record.slots[slot], parameter, all.slots[slot]) || !same_sizes(all.slots[slot], parameter))
        return false;
  RecordCodecs& codecs = record.extra->codecs;
  Types& types = codecs.types;
  const size_t position = static_cast<size_t>(&record - records_.data());
  if (!holding_.types_of(parameter, position, record.used_slots, all.slots, types)) return false;
  if (!storage_dtype(all.gradient.type, types.gradient) || types.gradient == DType::kFloat64 ||
      is_complex(all.gradient))
    return false;
  record.state_dtype = record.dtype;
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot) {
    if ((record.used_slots >> slot & 1u) == 0) continue;
    const Codec& codec = types.slots[slot];
    if (all.slots[slot].type != element_type(codec)) return false;
    record.state_dtype = codec.dtype;
    if (!is_blocks(codec.form)) continue;
    // Blocks follow the memory of their codes, and the passes that of the parameter.
    if (!is_dense(all.slots[slot]) || !same_order(all.slots[slot], parameter)) return false;
    TensorInfo absmax;
    if (!describe_state(codecs.beside[1 + slot], parameter, absmax) || absmax.type != kFloatType) return false;
    const bool has_rows = !holding_.wide.empty() && absmax.dim == 2;  // those of a part, whose blocks are in rows
    if (has_rows ? absmax.sizes[0] != parameter.sizes[0] : absmax.dim != 1) return false;
    if (absmax.numel != (parameter.numel + kBlock - 1) / kBlock || !is_contiguous(absmax)) return false;
  }
  const Form form = types.parameter.form;
  if (form == Form::kSplit || form == Form::kMaster) {
    if (!describe_state(codecs.beside[0], parameter, all.beside) || !same_sizes(all.beside, parameter)) return false;
    if (all.beside.type != (form == Form::kSplit ? kShortType : kFloatType)) return false;
  }
  // Plans of the CPU, which read numbers, alone have loops for narrow state: the device does not tell, since plans of
  // emulated and interpreted kernels have their tensors on the CPU too.
  codecs.is_coded = !is_compiled(types, record.used_slots, /*narrow_state=*/reads_numbers_);
  if (codecs.is_coded) record.dtype = record.state_dtype = DType::kFloat32;
  return true;
}

bool ParameterReader::describe_scalars(ParameterRecord& record, const TensorInfo& parameter) const {
  for (size_t i = 0; i < scalar_keys_.size(); ++i) {
    TensorInfo scalar;
    if (!describe_state(record.scalars[i], parameter, scalar) || scalar.numel != 1) return false;
    if (!holds_floats(scalar)) return false;
    record.scalar_is_double[i] = scalar.type == kDoubleType;
  }
  return true;
}

// Slow weights and sums that are apart from the elements.
bool ParameterReader::describe_extras(ParameterRecord& record, Described& all) const {
  const TensorInfo& parameter = all.parameter;
  if (lookahead_) {
    TensorInfo& slow = all.slow;
    const DType wanted = record.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    DType dtype = wanted;
    if (!describe_state(record.extra->slow, parameter, slow)) return false;
    if (!storage_dtype(slow.type, dtype) || dtype != wanted || is_complex(slow) != is_complex(parameter)) return false;
    if (!same_sizes(slow, parameter)) return false;
  }
  if (sums_apart(record)) {
    TensorInfo sums;
    if (!describe_state(record.extra->sums, parameter, sums) || !is_contiguous(sums)) return false;
    const bool is_number = sums_ == Sums::kTensor;  // else of shape [rows, 1, ...]
    if (sums.dim != (is_number ? 0 : parameter.dim) || sums.numel != (is_number ? 1 : parameter.sizes[0])) return false;
    if ((!is_number && sums.sizes[0] != sums.numel) || !holds_floats(sums)) return false;
    record.extra->sum_is_double = sums.type == kDoubleType;
  }
  return true;
}

bool ParameterReader::map_layout(ParameterRecord& record, const Described& all) const {
  const TensorInfo& parameter = all.parameter;
  if (writes_overlap(parameter)) return false;
  bool dense = is_dense(parameter) && same_walk(parameter, all.gradient);
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot) {
    if ((record.used_slots >> slot & 1u) == 0) continue;
    if (writes_overlap(all.slots[slot])) return false;
    dense &= same_walk(parameter, all.slots[slot]);
  }
  if (lookahead_) {
    if (writes_overlap(all.slow)) return false;
    dense &= same_walk(parameter, all.slow);
  }
  const bool has_beside = all.beside.data != nullptr || all.beside.numel != 0;
  if (has_beside) {
    if (writes_overlap(all.beside)) return false;
    dense &= same_walk(parameter, all.beside);
  }
  const std::vector<int64_t> walked = strides_of(parameter);
  std::vector<size_t> order(walked.size());  // of dimensions, the one with the largest stride first
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return walked[a] > walked[b]; });
  if (record.extra != nullptr) record.extra->rows = rows_of(parameter, order);
  record.layout.reset();
  if (dense) return true;

  record.layout = std::make_unique<StridedLayout>();
  const auto put = [&](const std::vector<int64_t>& from, std::vector<int64_t>& to) {
    for (const size_t dimension : order) to.push_back(from[dimension]);
  };
  put(sizes_of(parameter), record.layout->sizes);
  put(walked, record.layout->strides[kParameter]);
  put(strides_of(all.gradient), record.layout->strides[kGradient]);
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
    if ((record.used_slots >> slot & 1u) != 0) put(strides_of(all.slots[slot]), record.layout->strides[kState0 + slot]);
  if (lookahead_) put(strides_of(all.slow), record.layout->strides[kSlow]);
  if (has_beside) {
    record.extra->codecs.memory.strides.clear();
    put(strides_of(all.beside), record.extra->codecs.memory.strides);
  }
  return true;
}

}  // namespace torchclip
