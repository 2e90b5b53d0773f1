// What Python sees of the extension.
#include <algorithm>
#include <map>

#include "clip_functions.h"
#include "philox.h"
#include "plan.h"

namespace torchclip {
namespace {

py::dict describe() {
  py::dict rules;
  for (const RuleEntry& entry : rule_table()) {
    py::dict rule;
    rule["hyperparameters"] = entry.hyperparameters;
    rule["slots"] = entry.slots;
    py::dict scalars;  // name to initial value
    for (const ScalarState& scalar : entry.scalars) scalars[scalar.name] = scalar.initial;
    rule["scalars"] = scalars;
    rule["coefficients"] = entry.coefficients;
    rules[entry.name] = rule;
  }
  return rules;
}

const RuleEntry& rule_named(const std::string& name) {
  const RuleEntry* entry = find_rule(name);
  if (entry == nullptr) throw py::key_error("csrc/rules/registry.h lists no rule called " + name);
  return *entry;
}

// For the contract test: the coefficients of step number `step`, for a norm of 0 and the other numbers of state at
// their initial values.
std::vector<double> coefficients(const std::string& name, const std::vector<double>& hyperparameters, double step,
                                 bool first) {
  const RuleEntry& entry = rule_named(name);
  if (hyperparameters.size() != entry.hyperparameters.size() + 1)
    throw py::value_error(name + " takes lr and " + std::to_string(entry.hyperparameters.size()) + " hyperparameters");
  double scalars[kMaxScalars] = {};
  for (size_t i = 0; i < entry.scalars.size(); ++i) scalars[i] = entry.scalars[i].initial;
  scalars[0] = step - 1;
  double values[kMaxCoefficients] = {};
  entry.compute(hyperparameters.data(), scalars, first, DirectionNorms{}, values);
  return {values, values + entry.coefficients.size()};
}

std::vector<uint32_t> philox(int64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  const Counter drawn = philox4x32(static_cast<uint64_t>(seed), Counter{{c0, c1, c2, c3}});
  return {drawn.word, drawn.word + 4};
}

Modifiers modifiers_from(const std::map<std::string, double>& numbers) {
  Modifiers modifiers;
  for (const auto& [name, value] : numbers)
    if (!modifiers.set(name, value)) throw py::key_error("csrc/modifiers.h has no field called " + name);
  return modifiers;
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

bool is_constructed(PyObject* self) {
  return reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder().holder_constructed();
}

// A plan holds the optimizer's parameters and state, which may refer to the optimizer in turn, through a hook say: the
// garbage collector must see through it.
void collect_garbage_of_plans(PyHeapTypeObject* heap_type) {
  PyTypeObject* type = &heap_type->ht_type;
  type->tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!is_constructed(self)) return 0;
    return py::cast<Plan&>(py::handle(self)).traverse(visit, arg);
  };
  type->tp_clear = [](PyObject* self) {
    if (is_constructed(self)) py::cast<Plan&>(py::handle(self)).clear();
    return 0;
  };
}

}  // namespace
}  // namespace torchclip

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using namespace torchclip;
  module.doc() = "The compiled passes of torchclip.";
  module.attr("build") = "built by compiler " __VERSION__;
  module.def("algorithms", &describe);
  module.def("coefficients", &coefficients);
  module.def("philox4x32", &philox);
  module.def("serves_gradients", &serves_gradients);
  module.def("total_norm", &total_norm, py::call_guard<py::gil_scoped_release>());
  module.def("scale_gradients", &scale_gradients, py::call_guard<py::gil_scoped_release>());
  py::class_<Plan>(module, "Plan", py::custom_type_setup(collect_garbage_of_plans))
      .def(py::init([](const std::string& rule, std::vector<std::string> hyperparameters,
                       std::vector<std::string> slots, std::vector<std::string> scalars, int scope) {
        rule_named(rule);
        return new Plan(rule, Names{std::move(hyperparameters), std::move(slots), std::move(scalars)},
                        static_cast<Scope>(scope));
      }))
      .def("refresh", &Plan::refresh)
      .def("mark_fresh", &Plan::mark_fresh)
      .def("configure",
           [](Plan& plan, const std::map<std::string, double>& numbers) { plan.configure(modifiers_from(numbers)); })
      .def("step", [](Plan& plan, double inverse_grad_scale, bool found_inf,
                      double loss) { return static_cast<int>(plan.step(inverse_grad_scale, found_inf, loss)); })
      .def("report", &report)
      .def_property_readonly("zeros", &Plan::zeros);
}
