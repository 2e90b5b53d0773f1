// Which parameters, gradients and states the passes serve, and how to walk them.
#include <algorithm>
#include <numeric>

#include "parameter_reader.h"
#include "tensor_access.h"

namespace torchclip {
namespace {

// `order`: of the dimensions of the real view, from the outermost to the innermost. Which rows there are is up to the
// parameter's own dimensions: the parts of a complex number lie in one row.
Rows rows_of(const at::Tensor& parameter, const std::vector<size_t>& order) {
  const std::vector<int64_t> sizes = sizes_of(parameter);
  int64_t numel = 1, inner = 1;
  for (const int64_t size : sizes) numel *= size;
  if (parameter.dim() < 2 || sizes[0] == 1) return {1, std::max<int64_t>(numel, 1)};
  for (size_t i = order.size(); i-- > 0 && order[i] != 0;) inner *= sizes[order[i]];
  return {sizes[0], std::max<int64_t>(inner, 1)};
}

}  // namespace

bool ParameterReader::is_beside(const at::Tensor& tensor, const at::Tensor& parameter) const {
  return is_plain(tensor, device_) && (device_ == c10::kCPU || tensor.device() == parameter.device());
}

// State is written, and an inference tensor is not for torch.
bool ParameterReader::is_state_beside(const at::Tensor& tensor, const at::Tensor& parameter) const {
  return tensor.defined() && is_beside(tensor, parameter) && !tensor.is_inference();
}

// Whether the passes serve this parameter, gradient and state, and how to walk them.
bool ParameterReader::can_serve(ParameterRecord& record, const at::Tensor& gradient) {
  const at::Tensor& parameter = record.parameter();
  if (!storage_dtype(parameter, record.dtype) || !is_plain(parameter, device_)) return false;
  if (parameter.is_inference()) return false;  // which has no version to count up
  if (parameter.is_complex() && !takes_complex_) return false;
  if (!is_beside(gradient, parameter)) return false;
  if (gradient.scalar_type() != parameter.scalar_type() || gradient.sizes() != parameter.sizes()) return false;
  record.state_dtype = record.dtype;
  for (size_t slot = 0, seen = 0; slot < slot_keys_.size(); ++slot) {
    if ((record.used_slots >> slot & 1u) == 0) continue;
    const at::Tensor& tensor = record.slots[slot];
    DType dtype = record.dtype;
    if (!is_state_beside(tensor, parameter) || !storage_dtype(tensor, dtype)) return false;
    if (tensor.is_complex() != parameter.is_complex()) return false;
    if (tensor.sizes() != parameter.sizes() || (seen++ != 0 && dtype != record.state_dtype)) return false;
    record.state_dtype = dtype;
  }
  const bool half = record.dtype == DType::kBFloat16 || record.dtype == DType::kFloat16;
  if (record.state_dtype != record.dtype && !(half && record.state_dtype == DType::kFloat32)) return false;
  for (size_t i = 0; i < scalar_keys_.size(); ++i) {
    const at::Tensor& scalar = record.scalars[i];
    if (!is_state_beside(scalar, parameter) || scalar.numel() != 1) return false;
    if (scalar.scalar_type() != at::kFloat && scalar.scalar_type() != at::kDouble) return false;
    record.scalar_is_double[i] = scalar.scalar_type() == at::kDouble;
  }
  return examine_extras(record) && map_layout(record, gradient);
}

// Slow weights and sums that are apart from the elements.
bool ParameterReader::examine_extras(ParameterRecord& record) const {
  const at::Tensor& parameter = record.parameter();
  if (lookahead_) {
    const at::Tensor& slow = record.extra->slow;
    const DType wanted = record.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    DType dtype = wanted;
    if (!is_state_beside(slow, parameter)) return false;
    if (!storage_dtype(slow, dtype) || dtype != wanted || slow.is_complex() != parameter.is_complex()) return false;
    if (slow.sizes() != parameter.sizes()) return false;
  }
  if (sums_apart(record)) {
    const at::Tensor& sums = record.extra->sums;
    const int64_t wanted = sums_ == Sums::kTensor ? 1 : parameter.size(0);
    if (!is_state_beside(sums, parameter) || sums.numel() != wanted || !sums.is_contiguous()) return false;
    if (sums.scalar_type() != at::kFloat && sums.scalar_type() != at::kDouble) return false;
    record.extra->sum_is_double = sums.scalar_type() == at::kDouble;
  }
  return true;
}

bool ParameterReader::map_layout(ParameterRecord& record, const at::Tensor& gradient) const {
  const at::Tensor& parameter = record.parameter();
  const auto sizes = parameter.sizes(), strides = parameter.strides();
  if (writes_overlap(sizes, strides)) return false;
  bool dense = parameter.is_non_overlapping_and_dense() && same_walk(sizes, strides, gradient.strides());
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot) {
    if ((record.used_slots >> slot & 1u) == 0) continue;
    if (writes_overlap(sizes, record.slots[slot].strides())) return false;
    dense &= same_walk(sizes, strides, record.slots[slot].strides());
  }
  if (lookahead_) {
    if (writes_overlap(sizes, record.extra->slow.strides())) return false;
    dense &= same_walk(sizes, strides, record.extra->slow.strides());
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
  put(strides_of(gradient), record.layout->strides[kGradient]);
  for (size_t slot = 0; slot < slot_keys_.size(); ++slot)
    if ((record.used_slots >> slot & 1u) != 0)
      put(strides_of(record.slots[slot]), record.layout->strides[kState0 + slot]);
  if (lookahead_) put(strides_of(record.extra->slow), record.layout->strides[kSlow]);
  return true;
}

}  // namespace torchclip
