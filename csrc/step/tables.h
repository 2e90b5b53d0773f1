// The tables that a plan hands to a backend's passes. No torch header: CPU and CUDA passes include this.
#pragma once

#include <cstdint>
#include <vector>

#include "../pipeline.h"

namespace torchclip {

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };
constexpr int kDTypes = 4;

TORCHCLIP_HD constexpr int64_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

constexpr int kMaxSlots = 3;
constexpr int kMaxCoefficients = 8;
constexpr int kMaxScalars = 2;

// Operands of a tensor, in this order wherever one of them is named by number. Lookahead's slow weights are the last.
enum Operand : int { kParameter, kGradient, kState0, kSlow = kState0 + kMaxSlots, kOperands };

// How to walk a tensor whose operands do not share one dense layout: dimensions from the outermost to the innermost in
// the parameter's own order, so that element numbers agree with those of a dense parameter.
struct StridedLayout {
  std::vector<int64_t> sizes;               // [dimensions]
  std::vector<int64_t> strides[kOperands];  // [dimensions] each, in elements; empty where the operand is absent
};

// The rows of the leading dimension of a tensor, for norms and step sizes that each row has of its own. Element e, in
// the parameter's own order, lies in row (e / inner) mod count.
struct Rows {
  int64_t count = 0;  // 0: the tensor has no rows
  int64_t inner = 1;  // elements of a row that follow one another
  TORCHCLIP_HD int64_t of(int64_t element) const { return element / inner % count; }
  // True when the leading dimension is not the outermost one of a tensor of that many elements.
  TORCHCLIP_HD bool scattered(int64_t numel) const { return count > 0 && count * inner < numel; }
};

// A tensor's rows among those of all tensors.
struct RowMap {
  Rows rows;
  int64_t first = 0;
};

// Where the elements of a tensor are in the whole one that it is a part of: element e, in memory order, is number
// offset + e / inner * outer + e % inner there, or offset + e where it is one piece.
struct DrawPlace {
  uint32_t number = 0;  // of the parameter, among those of all processes
  int64_t offset = 0;
  int64_t inner = 0;  // elements of a piece; 0: it is one
  int64_t outer = 0;  // from the first element of a piece to that of the next
  int64_t of(int64_t element) const {
    return inner == 0 ? offset + element : offset + element / inner * outer + element % inner;
  }
  // How many of `count` elements from `element` on lie in one piece.
  int64_t together(int64_t element, int64_t count) const {
    if (inner == 0) return count;
    const int64_t rest = inner - element % inner;
    return rest < count ? rest : count;
  }
};

// The first of `count` elements of each operand, null where one is absent.
struct Operands {
  void* pointer[kOperands] = {};
  int64_t count = 0;
};

// One parameter with a gradient in this step.
struct TensorEntry {
  const Operands* all = nullptr;           // of the whole tensor
  const StridedLayout* strided = nullptr;  // null when every operand is dense in the same order
  int32_t parameter = 0;                   // position among all parameters of the optimizer
  int32_t group = 0;
  int32_t bucket = 0;
  int32_t coefficients = 0;  // which of the tables'
};

// What the update pass multiplies a set of tensors with, already decided by norms and hyperparameters.
struct Coefficients {
  PipelineCoefficients<double> pipeline;
  double rule[kMaxCoefficients];
};

// A run of elements of one tensor: the unit of work, and of the partial sums.
struct Chunk {
  int32_t tensor;  // index of the TensorEntry
  int64_t begin;
  int64_t end;
};

// The rows of a tensor that a chunk reaches.
struct RowSpan {
  int64_t first = 0;    // the first of them
  int64_t count = 0;    // 0 where the tensor has none
  int64_t partial = 0;  // where the chunk's partial sums begin when there is one for each row
};

// Consecutive chunks that one thread takes at a time.
struct Task {
  int32_t begin;
  int32_t end;
};

// What is measured over one chunk, or one row.
struct Partial {
  double gradient = 0;   // sum of squares, or of another power, of the gradient, or its largest magnitude
  double direction = 0;  // sum of squares of the direction that the rule measures

  void add(const Partial& other) {
    gradient += other.gradient;
    direction += other.direction;
  }
};

// What is measured over a unit of a scope, by one device or process, or by all.
struct UnitSum : Partial {
  double count = 0;  // of how many tensors or chunks; 0 where the unit has none

  void add(const UnitSum& other) {
    Partial::add(other);
    count += other.count;
  }
};

// What the passes do besides the rule in this step.
struct Extras {
  uint64_t seed = 0;
  uint32_t step = 0;                // from 1
  uint32_t gradient_threshold = 0;  // of keeps()
  uint32_t lr_threshold = 0;
  bool synchronises = false;  // Lookahead ends a round, or WeightEMA averages
  bool averages = false;      // the parameter stays where it is then
  double lookahead_alpha = 0;
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
  std::vector<Coefficients> coefficients;
  std::vector<Chunk> chunks;
  std::vector<Task> tasks;
  int64_t elements = 0;  // of all tensors
  Extras extras;
  std::vector<char> measured_groups;  // [groups], whether the pass over raw gradients looks at them; empty: at all
  std::vector<const struct Beside*> beside;  // [tensors], under a precision policy; else empty
  std::vector<DrawPlace> places;  // [tensors], for draws; empty where all are whole, and numbered as they stand
  // Where the step has nothing by rows, these are empty.
  std::vector<RowMap> row_maps;    // [tensors]
  std::vector<RowSpan> row_spans;  // [chunks]
  int64_t row_total = 0;           // rows of all tensors
  int64_t row_partials = 0;        // partial sums of a pass that keeps rows apart
  // [rows of all tensors], or empty: a factor on the gradients of each row, and one on its step.
  std::vector<double> row_gradient_factors;
  std::vector<double> row_step_factors;

  // Cuts the tensors into chunks, and gathers chunks into tasks of about the same number of elements.
  void map_chunks();

 private:
  void map_rows(const Chunk& chunk);
};

}  // namespace torchclip
