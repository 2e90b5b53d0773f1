// One parallel loop over parameters, in the same shares in every phase of a step: what a thread has read or written of
// a parameter stays in its own cache.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <limits>

// The OpenMP runtime that torch has loaded, by the functions that g++ makes of a parallel region. They are called by
// name because another compiler's regions call another runtime: clang's would need LLVM's, which torch does not bring,
// and to link one is two thread pools in one process. LLVM's and Intel's runtimes have these functions too.
extern "C" {
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_num_threads() noexcept;
int omp_get_thread_num() noexcept;
}

namespace torchclip::cpu {

// Below this many parameters a second thread is not worth waking for.
constexpr int64_t kSerialItems = 256;

// How many the calling thread may use, itself included: what torch.set_num_threads says in it, and 1 within a parallel
// region. In csrc/threads.cpp, since it asks torch.
int thread_count();

// Calls `body(thread, threads)` in up to `wanted` threads, which the runtime may have fewer of. What a thread throws
// there would end the process: the first exception is kept, and thrown when all are done.
template <class Body>
void run_in_threads(int wanted, const Body& body) {
  struct Region {
    const Body& body;
    std::atomic<bool> has_thrown{false};
    std::exception_ptr exception;
  } region{body};
  const auto run = [](void* data) noexcept {
    Region& shared = *static_cast<Region*>(data);
    try {
      shared.body(omp_get_thread_num(), omp_get_num_threads());
    } catch (...) {
      if (!shared.has_thrown.exchange(true)) shared.exception = std::current_exception();
    }
  };
  GOMP_parallel(run, &region, static_cast<unsigned>(wanted), 0);
  if (region.exception) std::rethrow_exception(region.exception);
}

// `most`: threads to wake.
template <class Body>
void for_each_item(int64_t count, const Body& body, int64_t most = std::numeric_limits<int>::max()) {
  const int wanted = count < kSerialItems ? 1 : static_cast<int>(std::min<int64_t>(thread_count(), most));
  if (wanted == 1) {
    for (int64_t item = 0; item < count; ++item) body(item);
    return;
  }
  run_in_threads(wanted, [&](int thread, int threads) {
    const int64_t end = count * (thread + 1) / threads;
    for (int64_t item = count * thread / threads; item < end; ++item) body(item);
  });
}

}  // namespace torchclip::cpu
