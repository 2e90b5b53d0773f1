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

// Which rows a new chunk reaches, and where their sums go.
void Tables::map_rows(const Chunk& chunk) {
  RowSpan span;
  span.partial = row_partials;
  const size_t tensor = static_cast<size_t>(chunk.tensor);
  const Rows& rows = row_maps[tensor].rows;
  if (rows.count > 0) {
    const bool scattered = rows.scattered(tensors[tensor].all->count);
    span.first = scattered ? 0 : rows.of(chunk.begin);
    span.count = scattered ? rows.count : rows.of(chunk.end - 1) - span.first + 1;
  }
  row_partials += std::max<int64_t>(span.count, 1);
  row_spans.push_back(span);
}

void Tables::map_chunks() {
  chunks.clear();
  tasks.clear();
  elements = 0;
  row_partials = 0;
  row_spans.clear();
  for (const TensorEntry& tensor : tensors) elements += tensor.all->count;
  const int64_t size = chunk_size(elements);
  int64_t in_task = 0;
  for (size_t index = 0; index < tensors.size(); ++index) {
    const int64_t numel = tensors[index].all->count;
    // Rows that do not lie one after the other are all reached by every chunk: one chunk then, one set of sums.
    const bool scattered = !row_maps.empty() && row_maps[index].rows.scattered(numel);
    const int64_t length = scattered ? numel : size;
    for (int64_t begin = 0; begin < numel; begin += length) {
      const int32_t chunk = static_cast<int32_t>(chunks.size());
      chunks.push_back({static_cast<int32_t>(index), begin, std::min(begin + length, numel)});
      if (!row_maps.empty()) map_rows(chunks.back());
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
