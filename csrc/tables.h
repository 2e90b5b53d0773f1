// The tables that a plan hands to a backend's passes. No torch header: CPU and CUDA passes include this.
#pragma once

#include <cstdint>
#include <vector>

#include "pipeline.h"

namespace torchclip {

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };
constexpr int kDTypes = 4;

constexpr int64_t element_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

constexpr int kMaxSlots = 3;
constexpr int kMaxCoefficients = 8;
constexpr int kMaxScalars = 2;

// Operands of a tensor, in this order wherever one of them is named by number.
enum Operand : int { kParameter, kGradient, kState0, kOperands = kState0 + kMaxSlots };

// How to walk a tensor whose operands do not share one dense layout: dimensions from the outermost to the innermost in
// the parameter's own order, so that element numbers agree with those of a dense parameter.
struct StridedLayout {
  std::vector<int64_t> sizes;               // [dimensions]
  std::vector<int64_t> strides[kOperands];  // [dimensions] each, in elements; empty where the operand is absent
};

// One parameter with a gradient in this step.
struct TensorEntry {
  void* operands[kOperands] = {};  // null where absent
  int64_t numel = 0;
  const StridedLayout* strided = nullptr;  // null when every operand is dense in the same order
  int32_t member = 0;                      // position among all parameters of the optimizer
  int32_t group = 0;
  int32_t bucket = 0;
};

// What the update pass multiplies with, already decided by norms and hyperparameters.
struct Row {
  PipelineCoefficients<double> pipeline;
  double rule[kMaxCoefficients];
};

// A run of elements of one tensor: the unit of work, and of the partial sums.
struct Chunk {
  int32_t tensor;  // index of the TensorEntry
  int64_t begin;
  int64_t end;
};

// Consecutive chunks that one thread takes at a time.
struct Task {
  int32_t begin;
  int32_t end;
};

// What is measured over one chunk.
struct Partial {
  double gradient = 0;   // sum of squares, or of another power, of the gradient
  double direction = 0;  // sum of squares of the direction that the rule measures
  double maximum = 0;    // largest magnitude in the gradient, for the infinity norm

  void add(const Partial& other) {
    gradient += other.gradient;
    direction += other.direction;
    maximum = larger(maximum, other.maximum);
  }
};

// Tensors that the same compiled loop serves: the same group, dtypes and state slots.
struct Bucket {
  int32_t group;
  DType parameter_dtype;
  DType state_dtype;  // the parameter's where there is no state
  unsigned slots;
  unsigned stages;
  bool operator==(const Bucket&) const = default;
};

struct Tables {
  std::vector<TensorEntry> tensors;
  std::vector<Bucket> buckets;
  std::vector<Row> rows;
  std::vector<int32_t> tensor_rows;  // [tensors], the row of each
  std::vector<Chunk> chunks;
  std::vector<Task> tasks;
  int64_t elements = 0;  // of all tensors

  // Cuts the tensors into chunks, and gathers chunks into tasks of about the same number of elements.
  void map_chunks();
};

}  // namespace torchclip
