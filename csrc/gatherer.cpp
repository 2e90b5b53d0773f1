#include "gatherer.h"

#include <algorithm>

#include "garbage_collection.h"
#include "parameter_reader.h"
#include "rule_table.h"
#include "step.h"
#include "tensor_access.h"

namespace torchclip {
namespace {

// Columns of the table of addresses: the operands, then the numbers of state, the sums, and a spare one that makes rows
// of 80 bytes.
constexpr int64_t kScalarColumn = kOperands;
constexpr int64_t kSumsColumn = kScalarColumn + kMaxScalars;
constexpr int64_t kAddressColumns = kSumsColumn + 2;

// Columns of the table of numbers: lr and the rule's own hyperparameters, then what the pipeline reads.
constexpr int64_t kOwnNumbers = 8;
constexpr int64_t kNumberColumns = kOwnNumbers + 4;

template <class T>
T* checked_table(const at::Tensor& into, const char* what, int64_t rows, int64_t columns) {
  TORCH_CHECK(
      into.device().is_cpu() && into.layout() == at::kStrided && into.is_contiguous() &&
          into.scalar_type() == c10::CppTypeToScalarType<T>::value && into.sizes() == at::IntArrayRef({rows, columns}),
      what, " are written into a contiguous ", c10::CppTypeToScalarType<T>::value, " tensor of shape [", rows, ", ",
      columns, "] on the CPU, and this one is ", into.scalar_type(), " of shape ", into.sizes(), " on ", into.device());
  return into.mutable_data_ptr<T>();
}

py::object layout_of(const ParameterRecord& record) {
  if (record.layout == nullptr) return py::none();
  py::tuple layout(1 + kOperands);
  layout[0] = py::tuple(py::cast(record.layout->sizes));
  for (size_t operand = 0; operand < kOperands; ++operand)
    layout[operand + 1] = py::tuple(py::cast(record.layout->strides[operand]));
  return layout;
}

py::object description_of(const ParameterRecord& record) {
  if (!record.can_step()) return py::none();
  const RecordExtra none;
  const RecordExtra& extra = record.extra == nullptr ? none : *record.extra;
  return py::make_tuple(record.group, static_cast<int>(record.dtype), static_cast<int>(record.state_dtype),
                        record.used_slots, count_of(record.parameter()), layout_of(record), extra.rows.count,
                        extra.rows.inner, extra.sum_is_double,
                        py::make_tuple(record.scalar_is_double[0], record.scalar_is_double[1]));
}

int64_t address(const void* pointer) { return static_cast<int64_t>(reinterpret_cast<intptr_t>(pointer)); }

void write_addresses(const ParameterRecord& record, int64_t* row) {
  std::fill_n(row, kAddressColumns, int64_t{0});
  if (!record.can_step()) return;
  for (size_t i = 0; i < kMaxScalars; ++i)
    row[kScalarColumn + static_cast<int64_t>(i)] = address(record.scalar_values[i]);
  const RecordExtra* const extra = record.extra.get();
  if (extra != nullptr && extra->sums.defined() && extra->sums.numel() != 0)
    row[kSumsColumn] = address(extra->sum_values);
  if (record.parameter().numel() == 0) return;  // as Tensor.data_ptr() has it
  for (size_t operand = 0; operand < kSlow; ++operand) row[operand] = address(record.operands[operand]);
  if (extra != nullptr && extra->slow.defined()) row[kSlow] = address(extra->slow_values);
}

class Gatherer {
 public:
  Gatherer(const RuleEntry& rule, const Names& names, Scope scope, c10::DeviceType device)
      : reader_(rule, names, sums_of(rule, scope), device, /*reads_numbers=*/false) {}

  void configure(bool lookahead, bool by_rows, size_t own_clips) { reader_.configure(lookahead, by_rows, own_clips); }
  std::vector<int64_t> refresh(const py::object& param_groups, const py::dict& state) {
    held_.clear();
    std::vector<int64_t> attention = reader_.refresh(param_groups, state);
    if (attention.empty()) reader_.hold_gradients(held_);
    return attention;
  }
  void let_go() { held_.clear(); }
  bool take_changed() { return reader_.take_changed(); }
  int traverse(visitproc visit, void* arg) const { return reader_.traverse(visit, arg); }
  void clear() {
    held_.clear();
    reader_.clear();
  }

  py::list describe() const {
    py::list descriptions;
    for (const ParameterRecord& record : reader_.records()) descriptions.append(description_of(record));
    return descriptions;
  }

  void addresses(const at::Tensor& into) const {
    const std::vector<ParameterRecord>& all = reader_.records();
    int64_t* row = checked_table<int64_t>(into, "addresses", static_cast<int64_t>(all.size()), kAddressColumns);
    for (const ParameterRecord& record : all) {
      write_addresses(record, row);
      row += kAddressColumns;
    }
  }

  void numbers(const at::Tensor& into) const {
    const std::vector<Group>& groups = reader_.groups();
    double* row = checked_table<double>(into, "numbers", static_cast<int64_t>(groups.size()), kNumberColumns);
    for (const Group& group : groups) {
      std::fill_n(row, kNumberColumns, 0.0);
      TORCH_CHECK(group.hyperparameters.size() <= kOwnNumbers, "a param group has ", group.hyperparameters.size(),
                  " numbers for the rule, and the table holds ", kOwnNumbers);
      std::copy(group.hyperparameters.begin(), group.hyperparameters.end(), row);
      std::copy(group.pipeline.begin() + kWeightDecay, group.pipeline.end(), row + kOwnNumbers);
      row += kNumberColumns;
    }
  }

  py::list lrs() const {
    py::list tensors;
    for (const Group& group : reader_.groups()) tensors.append(group.lr.defined() ? py::cast(group.lr) : py::none());
    return tensors;
  }

 private:
  ParameterReader reader_;
  // Of the last refresh: a plan in Python reads addresses, and other threads run before it has launched its kernels.
  std::vector<c10::Storage> held_;
};

}  // namespace

void bind_gatherer(py::module_& module) {
  py::class_<Gatherer>(module, "Gatherer", py::module_local(), py::custom_type_setup(collect_garbage_of<Gatherer>))
      .def(py::init([](const std::string& rule, const KeyTuples& keys, std::vector<std::string> slots,
                       std::vector<std::string> scalars, int scope, const std::string& device) {
             const RuleEntry* const entry = find_rule(rule);
             if (entry == nullptr) throw py::key_error("csrc/rules/registry.h lists no rule called " + rule);
             return new Gatherer(*entry, Names{keys_from(keys), std::move(slots), std::move(scalars)},
                                 static_cast<Scope>(scope), c10::Device(device).type());
           }),
           py::arg("rule"), py::arg("keys"), py::arg("slots"), py::arg("scalars"), py::arg("scope"), py::arg("device"))
      .def("configure", &Gatherer::configure, py::arg("lookahead"), py::arg("by_rows"), py::arg("own_clips") = 0)
      .def("refresh", &Gatherer::refresh, py::arg("param_groups"), py::arg("state"))
      .def("let_go", &Gatherer::let_go)
      .def("take_changed", &Gatherer::take_changed)
      .def("describe", &Gatherer::describe)
      .def("addresses", &Gatherer::addresses, py::arg("into"))
      .def("numbers", &Gatherer::numbers, py::arg("into"))
      .def("lrs", &Gatherer::lrs)
      .def("clear", &Gatherer::clear);
}

}  // namespace torchclip
