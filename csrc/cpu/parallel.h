// One parallel loop over parameters, in the same shares in every phase of a step: what a thread has read or written of
// a parameter stays in its own cache.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace torchclip::cpu {

// Below this many parameters a second thread is not worth waking for.
constexpr int64_t kSerialItems = 256;

// `most`: threads to wake.
template <class Body>
void for_each_item(int64_t count, const Body& body, int64_t most = std::numeric_limits<int>::max()) {
  const bool serial = count < kSerialItems || omp_in_parallel();
  const int threads = serial ? 1 : static_cast<int>(std::min<int64_t>(omp_get_max_threads(), most));
  if (threads == 1) {
    for (int64_t item = 0; item < count; ++item) body(item);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < count; ++item) body(item);
}

}  // namespace torchclip::cpu
