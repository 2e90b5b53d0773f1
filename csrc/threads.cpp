#include "threads.h"

#include "cpu/parallel.h"
#include "reader/reader.h"

extern "C" int omp_in_parallel() noexcept;

namespace torchclip {
namespace {

thread_local int threads_of_call = 1;

}  // namespace

void remember_thread_count() { threads_of_call = omp_in_parallel() != 0 ? 1 : reader().thread_count(); }

namespace cpu {

// OpenMP's own maximum is not it: a new thread has that of the machine, whatever torch.set_num_threads said before.
int thread_count() { return threads_of_call; }

}  // namespace cpu
}  // namespace torchclip
