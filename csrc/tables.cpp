#include "tables.h"

#include <algorithm>

namespace torchclip {
namespace {

constexpr int64_t kSmallestChunk = 4096;
constexpr int64_t kLargestChunk = 65536;
constexpr int64_t kChunksWanted = 64;
constexpr int32_t kChunksPerTask = 64;  // of tiny tensors, whose cost is not in their elements

// From the total alone, so that the partial sums do not depend on the number of cores; whole blocks of the norm loops.
int64_t chunk_size(int64_t elements) {
  return std::clamp(elements / kChunksWanted / kSmallestChunk * kSmallestChunk, kSmallestChunk, kLargestChunk);
}

}  // namespace

void Tables::map_chunks() {
  chunks.clear();
  tasks.clear();
  elements = 0;
  for (const TensorEntry& tensor : tensors) elements += tensor.numel;
  const int64_t size = chunk_size(elements);
  int64_t in_task = 0;
  for (size_t index = 0; index < tensors.size(); ++index) {
    const int64_t numel = tensors[index].numel;
    for (int64_t begin = 0; begin < numel; begin += size) {
      const int32_t chunk = static_cast<int32_t>(chunks.size());
      chunks.push_back({static_cast<int32_t>(index), begin, std::min(begin + size, numel)});
      if (tasks.empty() || in_task >= size || chunk - tasks.back().begin >= kChunksPerTask) {
        tasks.push_back({chunk, chunk});
        in_task = 0;
      }
      tasks.back().end = chunk + 1;
      in_task += chunks.back().end - begin;
    }
  }
}

}  // namespace torchclip
