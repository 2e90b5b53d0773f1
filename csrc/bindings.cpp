// What Python sees of the extension.
#include "clip_functions.h"
#include "philox.h"
#include "plan_bindings.h"
#include "python_access.h"
#include "rule_table.h"
#include "tables.h"

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
    rule["takes_complex"] = entry.takes_complex();
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

#if defined(TORCHCLIP_TORCH)
// Read from the file by torchclip/backends/native.py before the library is loaded.
[[gnu::used]] const char kBuiltFor[] = "torchclip._C for torch " TORCHCLIP_TORCH;
#endif

}  // namespace
}  // namespace torchclip

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using namespace torchclip;
  module.doc() = "The compiled passes of torchclip.";
#if defined(TORCHCLIP_CUDA_BUILD)
  module.attr("build") = "built by compiler " __VERSION__ " and " TORCHCLIP_CUDA_BUILD;
#else
  module.attr("build") = "built by compiler " __VERSION__;
#endif
  module.def("algorithms", &describe);
  module.def("coefficients", &coefficients);
  module.def("philox4x32", &philox);
  module.def("serves_gradients", &serves_gradients);
  module.def("total_norm", &total_norm, py::call_guard<py::gil_scoped_release>());
  module.def("scale_gradients", &scale_gradients, py::call_guard<py::gil_scoped_release>());
  bind_plans(module);
}
