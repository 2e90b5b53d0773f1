#include "clip_functions.h"

#include <cmath>
#include <deque>

#include "cpu/passes.h"
#include "tensor_access.h"

namespace torchclip {
namespace {

struct GradientTables {
  Tables tables;
  std::vector<cpu::Loops> loops;      // [dtypes]
  std::deque<StridedLayout> layouts;  // a deque: tables point into it

  GradientTables(const std::vector<at::Tensor>& gradients, double scale, double order) {
    for (int dtype = 0; dtype < kDTypes; ++dtype) {
      tables.buckets.push_back({0, static_cast<DType>(dtype), static_cast<DType>(dtype), 0, 0});
      loops.push_back(cpu::find_gradient_loops(static_cast<DType>(dtype), order));
    }
    tables.rows.push_back(Row{{scale, 0, 0, 0, 1}, {order}});
    for (const at::Tensor& gradient : gradients) {
      DType dtype = DType::kFloat32;
      storage_dtype(gradient, dtype);
      TensorEntry tensor;
      tensor.all.pointer[kParameter] = tensor.all.pointer[kGradient] = gradient.mutable_data_ptr();
      tensor.all.count = count_of(gradient);
      tensor.bucket = static_cast<int32_t>(dtype);
      if (!gradient.is_non_overlapping_and_dense()) {
        StridedLayout& layout = layouts.emplace_back();
        layout.sizes = sizes_of(gradient);
        layout.strides[kParameter] = layout.strides[kGradient] = strides_of(gradient);
        tensor.strided = &layout;
      }
      tables.tensors.push_back(tensor);
    }
    tables.tensor_rows.assign(tables.tensors.size(), 0);
    tables.map_chunks();
  }
};

}  // namespace

bool serves_gradients(const std::vector<at::Tensor>& gradients) {
  for (const at::Tensor& gradient : gradients) {
    DType dtype = DType::kFloat32;
    if (!is_plain(gradient, c10::kCPU) || !storage_dtype(gradient, dtype)) return false;
    if (gradient.is_inference() || lacks_memory(gradient)) return false;  // torch says what is wrong
    if (writes_overlap(gradient.sizes(), gradient.strides())) return false;
  }
  return true;
}

double total_norm(const std::vector<at::Tensor>& gradients, double order) {
  const GradientTables plan(gradients, 1.0, order);
  std::vector<Partial> partials;
  cpu::norm_pass(plan.tables, plan.loops, cpu::Measure::kRawGradient, false, partials);
  Partial total;
  for (const Partial& partial : partials) total.add(partial);
  if (std::isinf(order)) return total.maximum;
  return order == 2 ? std::sqrt(total.gradient) : std::pow(total.gradient, 1 / order);
}

void scale_gradients(const std::vector<at::Tensor>& gradients, double factor) {
  const GradientTables plan(gradients, factor, 2);
  std::vector<int64_t> zeros;
  cpu::update_pass(plan.tables, plan.loops, zeros);
  for (const at::Tensor& gradient : gradients) gradient.unsafeGetTensorImpl()->bump_version();
}

}  // namespace torchclip
