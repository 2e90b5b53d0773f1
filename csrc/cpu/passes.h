// The passes over all chunks of a step on the CPU, one parallel region each. No torch header.
#pragma once

#include "../codecs.h"

namespace torchclip::cpu {

enum class Measure : uint8_t {
  kRawGradient,  // the scaled gradient, before everything else of the pipeline
  kDirection,    // the gradient as the rule sees it, and the direction that the rule measures
  kWeight,       // the scaled gradient, and the parameter as the direction
};
constexpr int kMeasures = 3;

// The norm loops sum this many elements at a time in the compute type; chunks are whole multiples of it.
constexpr int64_t kNormBlock = 2048;

// A loop is given operands that are all dense.
using UpdateLoop = int64_t (*)(const Operands&, const Coefficients&);  // returns the number of exact zeros it wrote
using NormLoop = Partial (*)(const Operands&, const Coefficients&);

// Elements that are drawn for, prepared and updated together, in the first-level cache. A few hundred and not
// thousands: the processor fetches ahead of the loops over a piece only while drawing the next one does not take long.
constexpr int64_t kPiece = 128;

// The same of a split parameter and its gradient in bfloat16, in place. remainder: [count], of int16.
using SplitLoop = int64_t (*)(const Operands&, void* remainder, const Coefficients&);

// Over whole blocks of codes, beside a parameter and a gradient of float32, or a split one and its gradient in
// bfloat16, in place. absmax: [kMaxSlots], of the first block on. No rule that counts zeros has any.
using BlockLoop = void (*)(const Operands&, void* remainder, float* const* absmax, const Coefficients&);

// What is done around the rule, a piece at a time.
class Extensions;
using PiecesLoop = int64_t (*)(const Operands&, const Coefficients&, const Extensions&);  // as UpdateLoop
// The gradients of `count` elements up to coupled decay, into a buffer of the compute type. `words` and `normals` are
// there for the stages that use them.
using PerturbLoop = void (*)(const void* gradient, int64_t count, const Coefficients&, const uint32_t* words,
                             uint32_t threshold, const float* normals, void* out);
using SynchroniseLoop = void (*)(void* slow, int64_t count, double alpha, void* parameter);

// The compiled loops of one bucket; a loop is null when this combination of dtypes is not compiled.
struct Loops {
  UpdateLoop update = nullptr;
  bool writes_only = false;  // the update loop writes the parameter without reading it
  PiecesLoop update_pieces = nullptr;
  SplitLoop update_split = nullptr;       // of coded operands that have one
  BlockLoop update_blocks = nullptr;      // likewise
  NormLoop norm[kMeasures] = {};          // by Measure
  NormLoop direction_prepared = nullptr;  // Measure::kDirection over gradients in a buffer of the compute type
  PerturbLoop perturb = nullptr;
  SynchroniseLoop synchronise = nullptr;
  SynchroniseLoop average = nullptr;  // which leaves the parameter as it is
  unsigned step_coefficients = 0;     // those of Coefficients::rule that a row's step factor is multiplied into
  // Whether operands lie in memory otherwise than the loops take them, and how: those are of float32 then.
  bool is_coded = false;
  Types types;
};
Loops find_loops(const char* rule, const Bucket& bucket);
// Those of operands that a precision policy holds, in a bucket of float32.
Loops find_coded_loops(const char* rule, const Bucket& bucket, const Types& types);
// Of a split parameter beside state of the bucket's type; null where there is none.
SplitLoop find_split_loop(const char* rule, const Bucket& bucket);
// Of a bucket whose state is in blocks of codes; null where there is none.
BlockLoop find_block_loop(const char* rule, const Bucket& bucket, const Types& types);

// For tensors that are gradients and nothing else, given as kGradient to be measured and as kParameter to be multiplied
// by the coefficients' gradient_scale. The norm loop sums |x|^order, or with an infinite order finds the largest |x|.
Loops find_gradient_loops(DType dtype, double order);

// partials: written; [chunks], or by rows [row_partials]: those of a chunk begin where its row span says.
void norm_pass(const Tables& tables, const std::vector<Loops>& loops, Measure measure, bool by_rows,
               std::vector<Partial>& partials);

// zeros: [chunks], written: the exact zeros among the parameters of each chunk, of a rule that counts them. Null where
// nobody asks.
void update_pass(const Tables& tables, const std::vector<Loops>& loops, std::vector<int64_t>* zeros);

}  // namespace torchclip::cpu
