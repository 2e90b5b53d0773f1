// The parts of find_launchers, each in a file that compiles by itself. No CUDA header.
#pragma once

#include "passes.h"

namespace torchclip::cuda {

// The kernels of a functor's rules, without those that know no rule. Instantiated for every functor by functor.cu.
template <class Functor>
Launchers functor_launchers(const Bucket& bucket);

// The norms of gradients alone: `row_norm` and `raw_norm`.
Launchers gradient_launchers(DType dtype);

}  // namespace torchclip::cuda
