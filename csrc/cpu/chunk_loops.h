// What the passes do with one dense run of elements of a tensor: the compiled loop over all of it, or, where something
// is different from row to row, over the parts of it that lie in one row each.
#pragma once

#include "extensions.h"

namespace torchclip::cpu {

// A run of elements as they lie in memory; `begin` is the number of the first.
struct Run {
  const Operands& operands;
  int64_t begin;
  void* beside = nullptr;          // what a precision policy keeps beside the parameter
  float* const* absmax = nullptr;  // [kMaxSlots], each of the whole tensor
};

// One tensor in a pass.
struct Work {
  const Tables& tables;
  const TensorEntry& tensor;
  const Bucket& bucket;
  const Loops& loops;
  const Coefficients& coefficients;

  // As the loops take it.
  int64_t element_size_of(int operand) const {
    if (operand == kSlow) return bucket.parameter_dtype == DType::kFloat64 ? 8 : 4;
    return element_size(operand < kState0 ? bucket.parameter_dtype : bucket.state_dtype);
  }
  // As it lies in memory.
  int64_t stored_size_of(int operand) const {
    if (!loops.is_coded || operand == kSlow) return element_size_of(operand);
    if (operand == kGradient) return element_size(loops.types.gradient);
    return (operand == kParameter ? loops.types.parameter : loops.types.slots[operand - kState0]).element_size();
  }
  // Of what is kept beside a parameter.
  int64_t beside_size() const { return loops.types.parameter.form == Form::kSplit ? 2 : 4; }
  const Beside* beside() const {
    return tables.beside.empty() ? nullptr : tables.beside[static_cast<size_t>(&tensor - tables.tensors.data())];
  }
  // Operands of the loops, `offset` elements further on.
  Operands moved(const Operands& operands, int64_t offset, int64_t count) const {
    return moved_by(operands, offset, count, [this](int operand) { return element_size_of(operand); });
  }
  // The same of operands in memory.
  Operands moved_in_memory(const Operands& operands, int64_t offset, int64_t count) const {
    return moved_by(operands, offset, count, [this](int operand) { return stored_size_of(operand); });
  }
  const RowMap& row_map() const { return tables.row_maps[static_cast<size_t>(&tensor - tables.tensors.data())]; }
  bool has_rows() const { return !tables.row_maps.empty() && row_map().rows.count > 0; }
  bool has_row_factors() const {
    return has_rows() && !(tables.row_gradient_factors.empty() && tables.row_step_factors.empty());
  }
  bool perturbs() const { return (bucket.stages & kPerturbations) != 0; }
  // Whether the update is more than the rule's loop over all of a run.
  bool in_pieces() const { return (bucket.stages & (kPerturbations | kLRDropout)) != 0 || tables.extras.synchronises; }
  // The tensor's coefficients with the factors of one of its rows in them.
  Coefficients coefficients_of_row(int64_t row_index, bool step_factor) const;
  // Of a part of other processes' tensors the elements have other numbers in draws than here.
  DrawPlace place() const {
    if (tables.places.empty()) return {static_cast<uint32_t>(tensor.parameter)};
    return tables.places[static_cast<size_t>(&tensor - tables.tensors.data())];
  }
  template <class Size>
  static Operands moved_by(const Operands& operands, int64_t offset, int64_t count, const Size& size_of) {
    Operands result;
    result.count = count;
    for (int operand = 0; operand < kOperands; ++operand)
      if (operands.pointer[operand] != nullptr)
        result.pointer[operand] = static_cast<char*>(operands.pointer[operand]) + offset * size_of(operand);
    return result;
  }
  // For elements of one piece of the place, from `begin` on.
  Extensions extensions(const DrawPlace& place, int64_t begin) const {
    return {loops, tables.extras, bucket.stages, place.number, place.of(begin)};
  }
};

// The same by rows and in pieces.
int64_t update_apart(const Work& work, const Operands& operands, int64_t begin);
void measure_apart(const Work& work, Measure measure, bool by_rows, const Operands& operands, int64_t begin,
                   int64_t first_row, Partial* partials);

// Updates the elements of a run, the first of which is number `begin`. Returns the exact zeros written.
inline int64_t update_run(const Work& work, const Operands& operands, int64_t begin) {
  if (!work.in_pieces() && !work.has_row_factors()) return work.loops.update(operands, work.coefficients);
  return update_apart(work, operands, begin);
}

// Measures a run. `partials` holds one sum, or by rows one for each row from `first_row` on; sums are added to it.
inline void measure_run(const Work& work, Measure measure, bool by_rows, const Operands& operands, int64_t begin,
                        int64_t first_row, Partial* partials) {
  const bool seen = measure == Measure::kDirection;  // what the rule sees, and no raw gradient
  if (by_rows || (seen && (work.perturbs() || work.has_row_factors())))
    return measure_apart(work, measure, by_rows, operands, begin, first_row, partials);
  partials->add(work.loops.norm[static_cast<int>(measure)](operands, work.coefficients));
}

}  // namespace torchclip::cpu
