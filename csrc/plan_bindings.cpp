#include "plan_bindings.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "garbage_collection.h"
#include "plan.h"
#include "step/table_layout.h"
#include "triton/plan.h"
#if defined(TORCHCLIP_CUDA)
#include "cuda/plan.h"
#endif

namespace torchclip {
namespace {

Modifiers modifiers_from(const std::map<std::string, double>& numbers) {
  Modifiers modifiers;
  for (const auto& [name, value] : numbers)
    if (!modifiers.set(name, value)) throw py::key_error("csrc/modifiers.h has no field called " + name);
  return modifiers;
}

// (unit, limit, smooth, nonfinite) of each param group; empty where no group has a policy of its own.
using GroupClipNumbers = std::vector<std::tuple<int, double, bool, int>>;

std::vector<GroupClip> group_clips_from(const GroupClipNumbers& numbers) {
  std::vector<GroupClip> clips;
  for (const auto& [unit, limit, smooth, nonfinite] : numbers)
    clips.push_back({limit, unit, smooth ? 1 : 0, nonfinite});
  return clips;
}

py::dict report(const Plan& plan) {
  const Report& measured = plan.report();
  py::dict result;
  const auto put = [&](const char* name, const std::vector<double>& values, bool is_single) {
    if (!values.empty()) result[name] = is_single ? py::cast(values.front()) : py::cast(values);
  };
  put("grad_norm", measured.grad_norm, measured.is_single);
  put("clip_factor", measured.clip_factor, measured.is_single);
  put("direction_norm", measured.direction_norm, measured.is_single_direction);
  if (!measured.clip_factor.empty())
    result["clipped_fraction"] =
        static_cast<double>(plan.clipped_steps()) / static_cast<double>(std::max<int64_t>(plan.measured_steps(), 1));
  if (measured.lr_scale.has_value()) result["lr_scale"] = *measured.lr_scale;
  return result;
}

// The number that a step was handed, as a tensor or not; `otherwise` for None.
double number_from(const py::object& value, double otherwise) {
  if (value.is_none()) return otherwise;
  std::vector<double> numbers;
  if (!append_number(value.ptr(), numbers)) throw py::type_error("a step takes a number or a tensor of one");
  return numbers.front();
}

Outcome step(Plan& plan, const py::object& grad_scale, const py::object& found_inf, const py::object& loss) {
  // found_inf is a sum over devices: 2 says no less than 1.
  return plan.step(1.0 / number_from(grad_scale, 1.0), number_from(found_inf, 0.0) != 0, number_from(loss, 0.0));
}

py::dict report(const GpuPlan& plan) { return plan.report(); }
Outcome step(GpuPlan& plan, const py::object& grad_scale, const py::object& found_inf, const py::object& loss) {
  return plan.step(grad_scale, found_inf, loss);
}

// A plan that is at work for one thread is not for another, nor for itself through a hook: it may have let go of the
// GIL.
template <class AnyPlan>
class Exclusive {
 public:
  explicit Exclusive(AnyPlan& plan) : plan_(plan) {
    // Where every tensor that is made would be a wrapper.
    if (c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode))
      throw std::runtime_error(
          "a fused step cannot be taken within a transform of torch.func (grad, vmap, jvp, functionalize): call step() "
          "outside, or choose backend='reference'");
    if (plan.in_use)
      throw std::runtime_error(
          "this optimizer is in a step already, of another thread or one that this call comes from: take the steps of "
          "an optimizer one after the other");
    plan.in_use = true;
  }
  ~Exclusive() { plan_.in_use = false; }
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;

 private:
  AnyPlan& plan_;
};

// `init`: what py::init makes one with.
template <class AnyPlan, class Init>
void bind_plan(py::module_& module, const char* name, Init&& init) {
  py::class_<AnyPlan>(module, name, py::module_local(), py::custom_type_setup(collect_garbage_of<AnyPlan>))
      .def(std::forward<Init>(init))
      .def("refresh",
           [](AnyPlan& plan, const py::object& param_groups, const py::dict& state) {
             const Exclusive<AnyPlan> exclusive(plan);
             return plan.refresh(param_groups, state);
           })
      .def("mark_fresh",
           [](AnyPlan& plan, const std::vector<int64_t>& positions) {
             const Exclusive<AnyPlan> exclusive(plan);
             plan.mark_fresh(positions);
           })
      .def("unstarted", &AnyPlan::unstarted)
      .def(
          "configure",
          [](AnyPlan& plan, const std::map<std::string, double>& numbers, const GroupClipNumbers& groups) {
            const Exclusive<AnyPlan> exclusive(plan);
            plan.configure(modifiers_from(numbers), group_clips_from(groups));
          },
          py::arg("numbers"), py::arg("groups") = GroupClipNumbers{})
      .def("step",
           [](AnyPlan& plan, const py::object& param_groups, const py::dict& state, const py::object& grad_scale,
              const py::object& found_inf, const py::object& loss) {
             const Exclusive<AnyPlan> exclusive(plan);
             const bool ready = plan.refresh(param_groups, state).empty();
             return static_cast<int>(ready ? step(plan, grad_scale, found_inf, loss) : Outcome::kUnready);
           })
      .def_property_readonly("steps", &AnyPlan::steps)
      .def("report", [](const AnyPlan& plan) { return report(plan); })
      .def_property_readonly("zeros", &AnyPlan::zeros);
}

// `own`: what its constructor takes besides the rule.
template <class AnyPlan, class... Own>
AnyPlan* make_plan(const std::string& rule, const KeyTuples& keys, std::vector<std::string> slots,
                   std::vector<std::string> scalars, int scope, Own... own) {
  if (find_rule(rule) == nullptr) throw py::key_error("csrc/rules/registry.h lists no rule called " + rule);
  return new AnyPlan(rule, Names{keys_from(keys), std::move(slots), std::move(scalars)}, static_cast<Scope>(scope),
                     std::move(own)...);
}

}  // namespace

void bind_plans(py::module_& module) {
  bind_plan<Plan>(module, "Plan", py::init(&make_plan<Plan>));
  bind_plan<triton::Plan>(module, "TritonPlan", py::init(&make_plan<triton::Plan, std::string, py::object>));
  module.def("table_layout", &table_layout);
#if defined(TORCHCLIP_CUDA)
  bind_plan<cuda::Plan>(module, "CudaPlan", py::init(&make_plan<cuda::Plan>));
  module.attr("cuda_device") = c10::DeviceTypeName(cuda::kDeviceType, /*lower_case=*/true);
  module.def("cuda_reason", &cuda::unavailable_reason);
  module.def("cuda_versions", [] { return py::make_tuple(cuda::versions().driver, cuda::versions().runtime); });
#else
  module.attr("cuda_device") = py::none();
#endif
}

}  // namespace torchclip
