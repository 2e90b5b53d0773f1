// Each pass is one parallel region over tasks; threads take tasks from a shared counter, and what they sum goes to a
// slot of its own chunk, so that neither the number of threads nor their order shows in a result.
#include "passes.h"

#include <algorithm>
#include <atomic>

#include "coded.h"
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

// Runs `loop(run)` over a chunk whose operands are strided, through dense copies of kStagedElements at a time, written
// back when `writes`.
template <class Loop>
void for_each_staged(const Work& work, const Chunk& chunk, bool writes, const Loop& loop) {
  const StridedLayout& layout = *work.tensor.strided;
  const Beside* const beside = work.beside();
  // One more than the operands: what is kept beside a parameter.
  alignas(64) char buffers[kOperands + 1][kStagedElements * sizeof(double)];
  const auto memory_of = [&](int operand) {
    if (operand == kOperands) return static_cast<char*>(beside == nullptr ? nullptr : beside->parameter);
    return static_cast<char*>(work.tensor.all->pointer[operand]);
  };
  const auto size_of = [&](int operand) {
    return operand == kOperands ? work.beside_size() : work.stored_size_of(operand);
  };
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += kStagedElements) {
    Operands operands;
    operands.count = std::min(kStagedElements, chunk.end - begin);
    const auto walk = [&](int operand) {
      return StridedWalk(layout.sizes, operand == kOperands ? beside->strides : layout.strides[operand], begin);
    };
    for (int operand = 0; operand <= kOperands; ++operand) {
      if (memory_of(operand) == nullptr) continue;
      if (operand < kOperands) operands.pointer[operand] = buffers[operand];
      gather(memory_of(operand), walk(operand), operands.count, size_of(operand), buffers[operand]);
    }
    loop(Run{operands, begin, buffers[kOperands], beside == nullptr ? nullptr : beside->absmax});
    for (int operand = 0; writes && operand <= kOperands; ++operand) {
      if (memory_of(operand) == nullptr || operand == kGradient) continue;
      scatter(buffers[operand], walk(operand), operands.count, size_of(operand), memory_of(operand));
    }
  }
}

// Runs `loop` over a chunk, all at once where its operands are dense.
template <class Loop>
void for_each_run(const Work& work, const Chunk& chunk, bool writes, const Loop& loop) {
  if (work.tensor.strided != nullptr) return for_each_staged(work, chunk, writes, loop);
  const int64_t count = chunk.end - chunk.begin;
  void* beside = nullptr;
  float* const* absmax = nullptr;
  if (const Beside* const kept = work.beside(); kept != nullptr) {
    beside = static_cast<char*>(kept->parameter) + chunk.begin * work.beside_size();
    absmax = kept->absmax;
  }
  if (count == work.tensor.all->count) return loop(Run{*work.tensor.all, 0, beside, absmax});
  loop(Run{work.moved_in_memory(*work.tensor.all, chunk.begin, count), chunk.begin, beside, absmax});
}

// Runs a loop that only writes the parameter, and stores what it writes past the cache.
int64_t run_streamed(const Work& work, const Operands& operands, int64_t begin) {
  alignas(64) char buffer[kStreamBlock * sizeof(double)];
  const int64_t size = element_size(work.bucket.parameter_dtype);
  int64_t zeros = 0;
  for (int64_t offset = 0; offset < operands.count; offset += kStreamBlock) {
    Operands block = work.moved(operands, offset, std::min(kStreamBlock, operands.count - offset));
    char* const parameter = static_cast<char*>(block.pointer[kParameter]);
    block.pointer[kParameter] = buffer;
    zeros += update_run(work, block, begin + offset);
    stream_out(buffer, parameter, block.count * size);
  }
  stream_fence();
  return zeros;
}

Work work_of(const Tables& tables, const std::vector<Loops>& loops, const Chunk& chunk) {
  const TensorEntry& tensor = tables.tensors[static_cast<size_t>(chunk.tensor)];
  const size_t bucket = static_cast<size_t>(tensor.bucket);
  return {tables, tensor, tables.buckets[bucket], loops[bucket],
          tables.coefficients[static_cast<size_t>(tensor.coefficients)]};
}

// By bucket, the loop that is all there is to do for a chunk that is a whole dense tensor, and null where there is
// more: a thousand tensors of a few elements are a thousand times the way to the loop.
template <class Loop, class Choose>
std::vector<Loop> whole_loops(const Tables& tables, const std::vector<Loops>& loops, const Choose& choose) {
  std::vector<Loop> whole(loops.size(), nullptr);
  for (size_t bucket = 0; bucket < loops.size() && tables.row_maps.empty(); ++bucket)
    if (!loops[bucket].is_coded) whole[bucket] = choose(loops[bucket], tables.buckets[bucket]);
  return whole;
}

bool is_whole(const Chunk& chunk, const TensorEntry& tensor) {
  return tensor.strided == nullptr && chunk.end - chunk.begin == tensor.all->count;
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
  const int threads = small || tasks < 2 ? 1 : static_cast<int>(std::min<int64_t>(thread_count(), tasks));
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
  run_in_threads(threads, [&](int thread, int) { work(thread); });
}

}  // namespace

void norm_pass(const Tables& tables, const std::vector<Loops>& loops, Measure measure, bool by_rows,
               std::vector<Partial>& partials) {
  partials.assign(by_rows ? static_cast<size_t>(tables.row_partials) : tables.chunks.size(), Partial{});
  const bool skips = measure == Measure::kRawGradient && !tables.measured_groups.empty();
  const auto whole = whole_loops<NormLoop>(tables, loops, [&](const Loops& own, const Bucket& bucket) {
    const bool plain = measure == Measure::kRawGradient || (bucket.stages & kPerturbations) == 0;
    return plain && !by_rows && !skips ? own.norm[static_cast<int>(measure)] : nullptr;
  });
  const auto body = [&](int32_t index) {
    const Chunk& chunk = tables.chunks[static_cast<size_t>(index)];
    const TensorEntry& tensor = tables.tensors[static_cast<size_t>(chunk.tensor)];
    if (const NormLoop loop = whole[static_cast<size_t>(tensor.bucket)]; loop != nullptr && is_whole(chunk, tensor)) {
      partials[static_cast<size_t>(index)].add(
          loop(*tensor.all, tables.coefficients[static_cast<size_t>(tensor.coefficients)]));
      return;
    }
    const RowSpan span = by_rows ? tables.row_spans[static_cast<size_t>(index)] : RowSpan{0, 0, index};
    const Work work = work_of(tables, loops, chunk);
    if (skips && tables.measured_groups[static_cast<size_t>(work.tensor.group)] == 0) return;
    for_each_run(work, chunk, false, [&](const Run& run) {
      Partial* const sums = &partials[static_cast<size_t>(span.partial)];
      if (work.loops.is_coded) return measure_coded(work, measure, by_rows, run, span.first, sums);
      measure_run(work, measure, by_rows, run.operands, run.begin, span.first, sums);
    });
  };
  for_each_task(tables, body, false);
}

// In the reverse order of the norm pass: what that pass read last is still in the cache.
void update_pass(const Tables& tables, const std::vector<Loops>& loops, std::vector<int64_t>* zeros) {
  if (zeros != nullptr) zeros->resize(tables.chunks.size());
  const auto whole = whole_loops<UpdateLoop>(tables, loops, [&](const Loops& own, const Bucket& bucket) {
    const bool plain = (bucket.stages & (kPerturbations | kLRDropout)) == 0 && !tables.extras.synchronises;
    return plain && !(own.writes_only && tables.elements >= kStreamedElements) ? own.update : nullptr;
  });
  const auto body = [&](int32_t index) {
    const Chunk& chunk = tables.chunks[static_cast<size_t>(index)];
    const TensorEntry& tensor = tables.tensors[static_cast<size_t>(chunk.tensor)];
    if (const UpdateLoop loop = whole[static_cast<size_t>(tensor.bucket)]; loop != nullptr && is_whole(chunk, tensor)) {
      const int64_t count = loop(*tensor.all, tables.coefficients[static_cast<size_t>(tensor.coefficients)]);
      if (zeros != nullptr) (*zeros)[static_cast<size_t>(index)] = count;
      return;
    }
    const Work work = work_of(tables, loops, chunk);
    const bool streamed = work.loops.writes_only && tables.elements >= kStreamedElements && !work.tensor.strided;
    int64_t count = 0;
    for_each_run(work, chunk, true, [&](const Run& run) {
      if (work.loops.is_coded) {
        count += update_coded(work, run, zeros != nullptr);
      } else {
        count += streamed ? run_streamed(work, run.operands, run.begin) : update_run(work, run.operands, run.begin);
      }
    });
    if (zeros != nullptr) (*zeros)[static_cast<size_t>(index)] = count;
  };
  for_each_task(tables, body, true);
}

}  // namespace torchclip::cpu
