// What is known of each parameter of an optimizer between steps.
#pragma once

#include <memory>

#include "../codecs.h"
#include "../python_access.h"
#include "dict_seen.h"
#include "reader.h"

namespace torchclip {

inline double read_number(const void* values, bool is_double, int64_t i) {
  return is_double ? static_cast<const double*>(values)[i] : static_cast<const float*>(values)[i];
}
inline void write_number(void* values, bool is_double, int64_t i, double value) {
  if (is_double) {
    static_cast<double*>(values)[i] = value;
  } else {
    static_cast<float*>(values)[i] = static_cast<float>(value);
  }
}

// How a precision policy holds a parameter.
struct RecordCodecs {
  Types types;
  bool is_coded = false;         // no loop is compiled for the operands as they lie in memory
  Tensor beside[1 + kMaxSlots];  // what is kept beside the parameter, and the absmax of each slot
  Beside memory;                 // the same

  void* at(size_t i) const { return i == 0 ? memory.parameter : memory.absmax[i - 1]; }
  void put(size_t i, void* data) {
    if (i == 0) {
      memory.parameter = data;
    } else {
      memory.absmax[i - 1] = static_cast<float*>(data);
    }
  }
};

// What a parameter has besides in an optimizer that looks ahead, sums norms, clips by rows or has a precision policy.
struct RecordExtra {
  Tensor slow;  // Lookahead's weights, or WeightEMA's average
  Tensor sums;  // of squared norms: a number, or one for each row
  void* slow_values = nullptr;
  void* sum_values = nullptr;
  bool sum_is_double = false;
  Rows rows;  // of the leading dimension; below two dimensions the tensor as one
  RecordCodecs codecs;

  double sum(int64_t i) const { return read_number(sum_values, sum_is_double, i); }
  void set_sum(int64_t i, double value) const { write_number(sum_values, sum_is_double, i, value); }
};

// One parameter of the optimizer, with what was last seen of its gradient and state. Without heap blocks, except for a
// strided parameter's layout: a step walks over all of them, and waits for each cache line that it has to read.
struct alignas(64) ParameterRecord {
  Object object;      // the Parameter; its tensor is not held, so that torch.utils.swap_tensors can exchange it
  Operands operands;  // of this step; a complex element counts for two. Lookahead's weights only where a plan adds them

  // The second line, which with the first is all that a step of a rule without state reads.
  uint64_t fingerprint = 0;  // of the kind and geometry that were found to be served
  int32_t group = 0;
  uint8_t own_slots = 0;  // that this parameter uses besides those of its group
  bool active = false;    // has a gradient in this step
  // No step has been taken with the state that it has: its next one is a first.
  bool fresh = false;
  bool replaced = false;                // its state is made of other tensors than in the tables of last_position
  const void* last_gradient = nullptr;  // an address to prefetch or to compare with, never followed
  std::unique_ptr<RecordExtra> extra;
  Object state;  // optimizer.state[parameter], null before it exists
  Tensor slots[kMaxSlots];

  // The third.
  Tensor scalars[kMaxScalars];
  void* scalar_values[kMaxScalars] = {};
  bool scalar_is_double[kMaxScalars] = {};  // float otherwise
  DictSeen state_seen;                      // of `state` when slots and scalars were read

  std::unique_ptr<StridedLayout> layout;  // null when all operands share one dense layout
  int32_t last_position = -1;             // among all, when tables were last built; -1: it was not there
  int32_t dim = 0;
  DType dtype = DType::kFloat32;
  DType state_dtype = DType::kFloat32;
  unsigned used_slots = 0;

  // It has a gradient, and was found to be served by the last refresh.
  bool can_step() const { return fingerprint != 0; }
  double scalar(size_t i) const { return read_number(scalar_values[i], scalar_is_double[i], 0); }
  void set_scalar(size_t i, double value) const { write_number(scalar_values[i], scalar_is_double[i], 0, value); }
};

// Differs between builds whose structures do.
constexpr uint64_t layout_of_records() {
  constexpr uint64_t kInterface = 3;  // counted up with every change of ReaderTable that no size shows
  return (kInterface << 48) + (sizeof(ReaderTable) << 32) + (sizeof(RecordExtra) << 24) + (sizeof(TensorInfo) << 12) +
         sizeof(ParameterRecord);
}

}  // namespace torchclip
