// The passes over all chunks of a step on the CPU, one parallel region each. No torch header.
#pragma once

#include "../tables.h"

namespace torchclip::cpu {

enum class Measure : uint8_t {
  kRawGradient,  // the scaled gradient, before everything else of the pipeline
  kDirection,    // the gradient as the rule sees it, and the direction that the rule measures
};

// The norm loops sum this many elements at a time in the compute type; chunks are whole multiples of it.
constexpr int64_t kNormBlock = 2048;

// What a loop is given: operands that already point at the first element, all dense.
struct Operands {
  void* pointer[kOperands];
  int64_t count;
};

using UpdateLoop = int64_t (*)(const Operands&, const Row&);  // returns the number of exact zeros it wrote
using NormLoop = Partial (*)(const Operands&, const Row&);

// The compiled loops of one bucket; a loop is null when this combination of dtypes is not compiled.
struct Loops {
  UpdateLoop update = nullptr;
  bool writes_only = false;  // the update loop writes the parameter without reading it
  NormLoop norm[2] = {};     // by Measure
};
Loops find_loops(const char* rule, const Bucket& bucket);

// For tensors that are gradients and nothing else, given as kGradient to be measured and as kParameter to be multiplied
// by the row's gradient_scale. The norm loop sums |x|^order, or with an infinite order finds the largest |x|.
Loops find_gradient_loops(DType dtype, double order);

// partials: [chunks], written.
void norm_pass(const Tables& tables, const std::vector<Loops>& loops, Measure measure, std::vector<Partial>& partials);

// zeros: [chunks], written: the exact zeros among the parameters of each chunk (0 for rules that do not count).
void update_pass(const Tables& tables, const std::vector<Loops>& loops, std::vector<int64_t>& zeros);

}  // namespace torchclip::cpu
