// Passes over operands that a precision policy holds: the loops of float32 over buffers of a piece of elements, with
// each operand decoded before and encoded after. So every rule serves every policy, and neither is compiled for the
// other.
#pragma once

#include "chunk_loops.h"

namespace torchclip::cpu {

// As update_run; counts zeros only where they are asked for.
int64_t update_coded(const Work& work, const Run& run, bool counts_zeros);

// As measure_run.
void measure_coded(const Work& work, Measure measure, bool by_rows, const Run& run, int64_t first_row,
                   Partial* partials);

}  // namespace torchclip::cpu
