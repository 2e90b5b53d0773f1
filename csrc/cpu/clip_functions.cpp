#include "clip_functions.h"

#include <cmath>
#include <deque>
#include <optional>

#include "../reader/tensor_info.h"
#include "passes.h"

namespace torchclip {
namespace {

TensorInfo described(const Object& tensor) {
  TensorInfo info;
  if (!is_tensor(tensor.get())) throw TypeError("gradients are tensors, and here is " + type_name(tensor.get()));
  if (!reader().describe_object(tensor.get(), /*writes=*/true, info))
    throw std::runtime_error("a gradient is " + description_of(tensor.get()) + " without memory of its own");
  return info;
}

struct GradientTables {
  Tables tables;
  std::vector<cpu::Loops> loops;  // [dtypes]
  std::deque<Operands> operands;  // deques: tables point into them
  std::deque<StridedLayout> layouts;

  GradientTables(const std::vector<Object>& gradients, double scale, double order) {
    for (int dtype = 0; dtype < kDTypes; ++dtype) {
      tables.buckets.push_back({0, static_cast<DType>(dtype), static_cast<DType>(dtype), 0, 0});
      loops.push_back(cpu::find_gradient_loops(static_cast<DType>(dtype), order));
    }
    tables.coefficients.push_back(Coefficients{{scale, 0, 0, 0, 1}, {order}});
    for (const Object& object : gradients) add(object);
    tables.map_chunks();
  }

  void add(const Object& object) {
    const TensorInfo gradient = described(object);
    DType dtype = DType::kFloat32;
    storage_dtype(gradient.type, dtype);
    TensorEntry tensor;
    Operands& all = operands.emplace_back();
    all.pointer[kParameter] = all.pointer[kGradient] = gradient.data;
    all.count = count_of(gradient);
    tensor.all = &all;
    tensor.bucket = static_cast<int32_t>(dtype);
    if (!is_dense(gradient)) {
      StridedLayout& layout = layouts.emplace_back();
      layout.sizes = sizes_of(gradient);
      layout.strides[kParameter] = layout.strides[kGradient] = strides_of(gradient);
      tensor.strided = &layout;
    }
    tables.tensors.push_back(tensor);
  }
};

// Lets other threads run during a pass that takes long, and holds the memory that it works on.
class LongPass {
 public:
  LongPass(const std::vector<Object>& gradients, int64_t elements) {
    constexpr int64_t kElementsWithGil = 1 << 16;
    if (elements < kElementsWithGil) return;
    for (const Object& gradient : gradients) {
      const Tensor tensor = Tensor::of(gradient.get());
      reader().hold(tensor.get(), held_.all());
    }
    without_gil_.emplace();
  }

 private:
  HeldMemory held_;  // let go of when the GIL is held again
  std::optional<WithoutGil> without_gil_;
};

}  // namespace

bool serves_gradients(const std::vector<Object>& gradients) {
  for (const Object& object : gradients) {
    if (!is_tensor(object.get())) throw TypeError("gradients are tensors, and here is " + type_name(object.get()));
    TensorInfo gradient;
    DType dtype = DType::kFloat32;
    if (!reader().describe_object(object.get(), /*writes=*/false, gradient) || !gradient.device.is_cpu()) return false;
    if (!storage_dtype(gradient.type, dtype)) return false;
    if (gradient.is_inference || gradient.lacks_memory) return false;  // torch says what is wrong
    if (writes_overlap(gradient)) return false;
  }
  return true;
}

double total_norm(const std::vector<Object>& gradients, double order) {
  const GradientTables plan(gradients, 1.0, order);
  std::vector<Partial> partials;
  {
    const LongPass pass(gradients, plan.tables.elements);
    cpu::norm_pass(plan.tables, plan.loops, cpu::Measure::kRawGradient, false, partials);
  }
  double total = 0;
  for (const Partial& partial : partials)
    total = std::isinf(order) ? larger(total, partial.gradient) : total + partial.gradient;
  if (std::isinf(order)) return total;
  return order == 2 ? std::sqrt(total) : std::pow(total, 1 / order);
}

void scale_gradients(const std::vector<Object>& gradients, double factor) {
  const GradientTables plan(gradients, factor, 2);
  {
    const LongPass pass(gradients, plan.tables.elements);
    cpu::update_pass(plan.tables, plan.loops, nullptr);
  }
  reader().count_versions_of(make_tuple_of(gradients).get());
}

}  // namespace torchclip
