// Each pass is one parallel region over tasks; threads take tasks from a shared counter, and what they sum goes to a
// slot of its own chunk, so that neither the number of threads nor their order shows in a result.
#include "passes.h"

#include <algorithm>
#include <atomic>

#include "parallel.h"
#include "stream.h"
#include "strided.h"

namespace torchclip::cpu {
namespace {

// Below this many elements a pass takes less time than waking a second thread.
constexpr int64_t kSerialElements = 32768;
// From this many elements on, a parameter is no longer in the cache when the next step comes.
constexpr int64_t kStreamedElements = 8'000'000;
// Streamed elements pass through a buffer of this many, which stays in the first-level cache.
constexpr int64_t kStreamBlock = 1024;
// A strided tensor is staged through buffers of this many elements on the stack.
constexpr int64_t kStagedElements = 512;

int64_t element_size_of(const Bucket& bucket, int operand) {
  return element_size(operand < kState0 ? bucket.parameter_dtype : bucket.state_dtype);
}

Operands dense_operands(const TensorEntry& tensor, const Bucket& bucket, const Chunk& chunk) {
  Operands operands;
  operands.count = chunk.end - chunk.begin;
  std::copy(tensor.operands, tensor.operands + kOperands, operands.pointer);
  if (chunk.begin == 0) return operands;
  for (int operand = 0; operand < kOperands; ++operand)
    if (operands.pointer[operand] != nullptr)
      operands.pointer[operand] =
          static_cast<char*>(operands.pointer[operand]) + chunk.begin * element_size_of(bucket, operand);
  return operands;
}

// Runs `loop` over a chunk whose operands are strided, through dense copies of kStagedElements at a time.
template <class Loop>
void for_each_staged(const TensorEntry& tensor, const Bucket& bucket, const Chunk& chunk, bool writes,
                     const Loop& loop) {
  alignas(64) char buffers[kOperands][kStagedElements * sizeof(double)];
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += kStagedElements) {
    Operands operands{{}, std::min(kStagedElements, chunk.end - begin)};
    const auto walk = [&](int operand) {
      return StridedWalk(tensor.strided->sizes, tensor.strided->strides[operand], begin);
    };
    for (int operand = 0; operand < kOperands; ++operand) {
      if (tensor.operands[operand] == nullptr) continue;
      operands.pointer[operand] = buffers[operand];
      gather(static_cast<const char*>(tensor.operands[operand]), walk(operand), operands.count,
             element_size_of(bucket, operand), buffers[operand]);
    }
    loop(operands);
    for (int operand = 0; writes && operand < kOperands; ++operand) {
      if (tensor.operands[operand] == nullptr || operand == kGradient) continue;
      scatter(buffers[operand], walk(operand), operands.count, element_size_of(bucket, operand),
              static_cast<char*>(tensor.operands[operand]));
    }
  }
}

// Runs a loop that only writes the parameter, and stores what it writes past the cache.
int64_t run_streamed(UpdateLoop loop, Operands operands, const Bucket& bucket, const Row& row) {
  alignas(64) char buffer[kStreamBlock * sizeof(double)];
  char* parameter = static_cast<char*>(operands.pointer[kParameter]);
  const int64_t size = element_size(bucket.parameter_dtype);
  int64_t zeros = 0;
  operands.pointer[kParameter] = buffer;
  for (int64_t left = operands.count; left > 0; left -= operands.count) {
    operands.count = std::min(kStreamBlock, left);
    zeros += loop(operands, row);
    stream_out(buffer, parameter, operands.count * size);
    parameter += operands.count * size;
    for (int operand = kGradient; operand < kOperands; ++operand)
      if (operands.pointer[operand] != nullptr)
        operands.pointer[operand] =
            static_cast<char*>(operands.pointer[operand]) + operands.count * element_size_of(bucket, operand);
  }
  stream_fence();
  return zeros;
}

// The tasks that one thread begins with, in a cache line of their own.
struct alignas(64) Share {
  std::atomic<int64_t> taken{0};
  int64_t begin = 0;
  int64_t count = 0;
};

// Every thread works through its own share first, the same one in every pass and every step, so that what it wrote is
// still in its own cache; then it helps the others.
template <class Body>
void for_each_task(const Tables& tables, const Body& body, bool reverse) {
  const int64_t tasks = static_cast<int64_t>(tables.tasks.size());
  const bool small = tables.elements < kSerialElements && static_cast<int64_t>(tables.chunks.size()) < kSerialItems;
  const bool serial = small || tasks < 2 || omp_in_parallel();
  const int threads = serial ? 1 : static_cast<int>(std::min<int64_t>(omp_get_max_threads(), tasks));
  std::vector<Share> shares(static_cast<size_t>(threads));
  for (int thread = 0; thread < threads; ++thread) {
    Share& share = shares[static_cast<size_t>(thread)];
    share.begin = tasks * thread / threads;
    share.count = tasks * (thread + 1) / threads - share.begin;
  }
  const auto work = [&](int thread) {
    for (int turn = 0; turn < threads; ++turn) {
      Share& share = shares[static_cast<size_t>((thread + turn) % threads)];
      for (int64_t i = share.taken++; i < share.count; i = share.taken++) {
        const int64_t index = share.begin + (reverse ? share.count - 1 - i : i);
        const Task& task = tables.tasks[static_cast<size_t>(index)];
        for (int32_t chunk = task.begin; chunk < task.end; ++chunk) body(chunk);
      }
    }
  };
  if (threads == 1) {
    work(0);
    return;
  }
#pragma omp parallel num_threads(threads)
  work(omp_get_thread_num());
}

}  // namespace

void norm_pass(const Tables& tables, const std::vector<Loops>& loops, Measure measure, std::vector<Partial>& partials) {
  partials.assign(tables.chunks.size(), Partial{});
  const auto body = [&](int32_t index) {
    const Chunk& chunk = tables.chunks[static_cast<size_t>(index)];
    const TensorEntry& tensor = tables.tensors[static_cast<size_t>(chunk.tensor)];
    const Bucket& bucket = tables.buckets[static_cast<size_t>(tensor.bucket)];
    const Row& row = tables.rows[static_cast<size_t>(tables.tensor_rows[static_cast<size_t>(chunk.tensor)])];
    const NormLoop loop = loops[static_cast<size_t>(tensor.bucket)].norm[static_cast<int>(measure)];
    Partial& partial = partials[static_cast<size_t>(index)];
    if (tensor.strided == nullptr) {
      partial = loop(dense_operands(tensor, bucket, chunk), row);
      return;
    }
    for_each_staged(tensor, bucket, chunk, false, [&](const Operands& operands) { partial.add(loop(operands, row)); });
  };
  for_each_task(tables, body, false);
}

// In the reverse order of the norm pass: what that pass read last is still in the cache.
void update_pass(const Tables& tables, const std::vector<Loops>& loops, std::vector<int64_t>& zeros) {
  zeros.assign(tables.chunks.size(), 0);
  const auto body = [&](int32_t index) {
    const Chunk& chunk = tables.chunks[static_cast<size_t>(index)];
    const TensorEntry& tensor = tables.tensors[static_cast<size_t>(chunk.tensor)];
    const Bucket& bucket = tables.buckets[static_cast<size_t>(tensor.bucket)];
    const Row& row = tables.rows[static_cast<size_t>(tables.tensor_rows[static_cast<size_t>(chunk.tensor)])];
    const Loops& compiled = loops[static_cast<size_t>(tensor.bucket)];
    const UpdateLoop loop = compiled.update;
    int64_t& count = zeros[static_cast<size_t>(index)];
    if (tensor.strided == nullptr) {
      const Operands operands = dense_operands(tensor, bucket, chunk);
      const bool streamed = compiled.writes_only && tables.elements >= kStreamedElements;
      count = streamed ? run_streamed(loop, operands, bucket, row) : loop(operands, row);
      return;
    }
    for_each_staged(tensor, bucket, chunk, true, [&](const Operands& operands) { count += loop(operands, row); });
  };
  for_each_task(tables, body, true);
}

}  // namespace torchclip::cpu
