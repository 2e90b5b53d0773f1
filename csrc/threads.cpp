#include <ATen/Parallel.h>

#include "cpu/parallel.h"

namespace torchclip::cpu {

// OpenMP's own maximum is not it: a new thread has that of the machine, whatever torch.set_num_threads said before.
int thread_count() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

}  // namespace torchclip::cpu
