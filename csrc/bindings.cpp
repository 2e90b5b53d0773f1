// What Python sees of the extension.
#include "calls.h"
#include "cpu/clip_functions.h"
#include "philox.h"
#include "plan_bindings.h"
#include "rule_table.h"
#include "step/table_layout.h"
#if defined(TORCHCLIP_CUDA)
#include "cuda/plan.h"
#endif

namespace torchclip {
namespace {

Object algorithms(const Arguments& arguments) {
  arguments.expect("algorithms", 0, 0);
  const Object rules = make_dict();
  for (const RuleEntry& entry : rule_table()) {
    const Object rule = make_dict();
    const auto count = [&](const char* name, size_t value) { put(rule, name, to_python(static_cast<int64_t>(value))); };
    count("hyperparameters", entry.hyperparameters.size());
    count("scalars", entry.scalars.size());
    count("coefficients", entry.coefficients.size());
    put(rule, "takes_complex", to_python(entry.takes_complex()));
    put(rules, entry.name, rule);
  }
  return rules;
}

const RuleEntry& rule_named(const std::string& name) {
  const RuleEntry* entry = find_rule(name);
  if (entry == nullptr) throw KeyError("csrc/rules/registry.h lists no rule called " + name);
  return *entry;
}

// For the contract test: the coefficients for a norm of 0, from the numbers of state before the step.
Object coefficients(const Arguments& arguments) {
  arguments.expect("coefficients", 4, 4);
  const std::string name = to_string(arguments[0]);
  const std::vector<double> hyperparameters = vector_of(arguments[1], to_double);
  std::vector<double> scalars = vector_of(arguments[2], to_double);
  const RuleEntry& entry = rule_named(name);
  if (hyperparameters.size() != entry.hyperparameters.size() + 1 || scalars.size() != entry.scalars.size())
    throw ValueError(name + " takes lr, " + std::to_string(entry.hyperparameters.size()) + " hyperparameters and " +
                     std::to_string(entry.scalars.size()) + " numbers of state");
  double values[kMaxCoefficients] = {};
  entry.compute(hyperparameters.data(), scalars.data(), to_bool(arguments[3]), DirectionNorms{}, values);
  return to_python(std::vector<double>(values, values + entry.coefficients.size()));
}

Object philox(const Arguments& arguments) {
  arguments.expect("philox4x32", 5, 5);
  const auto word = [&](Py_ssize_t index) { return static_cast<uint32_t>(to_int(arguments[index])); };
  const Counter drawn =
      philox4x32(static_cast<uint64_t>(to_int(arguments[0])), Counter{{word(1), word(2), word(3), word(4)}});
  return to_python(std::vector<int64_t>(drawn.word, drawn.word + 4));
}

Object serves(const Arguments& arguments) {
  arguments.expect("serves_gradients", 1, 1);
  return to_python(serves_gradients(items_of(arguments[0])));
}

Object norm(const Arguments& arguments) {
  arguments.expect("total_norm", 2, 2);
  return to_python(total_norm(items_of(arguments[0]), to_double(arguments[1])));
}

Object scale(const Arguments& arguments) {
  arguments.expect("scale_gradients", 2, 2);
  scale_gradients(items_of(arguments[0]), to_double(arguments[1]));
  return none();
}

Object layout(const Arguments& arguments) {
  arguments.expect("table_layout", 0, 0);
  const Object all = make_dict();
  for (const auto& [name, place] : table_layout()) put(all, name.c_str(), make_tuple(place.first, place.second));
  return all;
}

// Not by function(), which would choose first.
PyObject* choose_reader(PyObject*, PyObject* const* values, Py_ssize_t count) noexcept {
  return guarded([&] {
    const Arguments arguments{values, count};
    arguments.expect("use_reader", 1, 1);
    const void* table = nullptr;
    if (arguments[0] != Py_None) {
      table = PyCapsule_GetPointer(arguments[0], kReaderCapsule);
      if (table == nullptr) throw PythonError();
    }
    use_reader(static_cast<const ReaderTable*>(table));
    return none();
  });
}

Object reader_name(const Arguments& arguments) {
  arguments.expect("reader", 0, 0);
  return to_python(reader().name);
}

#if defined(TORCHCLIP_CUDA)
Object cuda_reason(const Arguments& arguments) {
  arguments.expect("cuda_reason", 0, 0);
  return to_python(cuda::unavailable_reason());
}

Object cuda_versions(const Arguments& arguments) {
  arguments.expect("cuda_versions", 0, 0);
  return make_tuple(cuda::versions().driver, cuda::versions().runtime);
}

Object cuda_device() { return to_python(name_of(cuda::kDeviceType)); }
#else
Object cuda_device() { return none(); }
#endif

#if defined(TORCHCLIP_CUDA_BUILD)
constexpr const char* kBuild = "built by compiler " __VERSION__ " and " TORCHCLIP_CUDA_BUILD;
#else
constexpr const char* kBuild = "built by compiler " __VERSION__;
#endif

PyMethodDef functions[] = {
    method_of("algorithms", &function<&algorithms>, "algorithms() -> dict"),
    method_of("coefficients", &function<&coefficients>,
              "coefficients(name, hyperparameters, scalars, first, /) -> list"),
    method_of("philox4x32", &function<&philox>, "philox4x32(seed, c0, c1, c2, c3, /) -> list"),
    method_of("serves_gradients", &function<&serves>, "serves_gradients(gradients, /) -> bool"),
    method_of("total_norm", &function<&norm>, "total_norm(gradients, order, /) -> float"),
    method_of("scale_gradients", &function<&scale>, "scale_gradients(gradients, factor, /) -> None"),
    method_of("table_layout", &function<&layout>, "table_layout() -> dict"),
    method_of("use_reader", &choose_reader, "use_reader(table, /) -> None"),
    method_of("reader", &function<&reader_name>, "reader() -> str"),
#if defined(TORCHCLIP_CUDA)
    method_of("cuda_reason", &function<&cuda_reason>, "cuda_reason() -> str"),
    method_of("cuda_versions", &function<&cuda_versions>, "cuda_versions() -> tuple"),
#endif
    {nullptr, nullptr, 0, nullptr}};

PyObject* make_module() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                   "torchclip._C",
                                   "The compiled passes of torchclip.",
                                   -1,
                                   functions,
                                   nullptr,
                                   nullptr,
                                   nullptr,
                                   nullptr};
  return guarded([] {
    const Object module = Object::take(PyModule_Create(&definition));
    const auto add = [&](const char* name, const Object& value) {
      if (PyObject_SetAttrString(module.get(), name, value.get()) != 0) throw PythonError();
    };
    add("build", to_python(kBuild));
    add("cuda_device", cuda_device());
    bind_plans(module);
    return module;
  });
}

}  // namespace
}  // namespace torchclip

#if defined(TORCHCLIP_CUDA_EMULATOR)
PyMODINIT_FUNC PyInit__C_emulated() { return torchclip::make_module(); }
#else
PyMODINIT_FUNC PyInit__C() { return torchclip::make_module(); }
#endif
