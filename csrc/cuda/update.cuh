// The update pass: a block for each piece of a chunk. The device hands them out in order, which keeps the addresses
// under way close together, as a grid that stays and strides over the chunks does not: five hundredths of the time.
#pragma once

#include <type_traits>

#include "../rules/registry.h"
#include "draws.cuh"
#include "operands.cuh"
#include "reduce.cuh"

namespace torchclip::cuda {

// `kCount` neighbours of one tensor, in registers.
template <class C, int kSlots, int kCount>
struct Elements {
  C parameter[kCount] = {}, gradient[kCount], state[kSlots][kCount] = {}, slow[kCount] = {};
};

// Updates the elements of a tensor, which `kLanes` threads share; see for_each_element.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S, int kLanes>
class UpdateWorker {
  using C = ComputeType<T>;
  static constexpr int kSlots = Functor::kSlots;
  static constexpr bool kReadsParameter = kNeedsParameter<Functor, Stages>;
  static constexpr unsigned kUsed =
      operand_bit(kParameter) | operand_bit(kGradient) | Slots << kState0 | operand_bit(kSlow);
  static constexpr int kSlotCount = (Slots & 1u) + (Slots >> 1 & 1u) + (Slots >> 2 & 1u);
  static constexpr int kAccesses =
      (kReadsParameter ? 2 : 1) + kSlotCount * static_cast<int>(sizeof(S)) / static_cast<int>(sizeof(T));

  TORCHCLIP_HD static constexpr bool uses(int slot) { return (Slots >> slot & 1u) != 0; }

 public:
  static constexpr int kElements = kWidth<T>;
  // What float16 is widened to at once, here 64 numbers: more than there are registers for, but in a kernel that does
  // nothing else, and there up to sm_90.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1000
  static_assert(kThreads != kUpdateThreads);
  static constexpr bool kHasRoom = kLanes == kUpdateThreads;
#else
  static constexpr bool kHasRoom = false;
#endif
  static constexpr bool kSpills = std::is_same_v<T, Float16> && kAccesses == 4 && !kHasRoom;
  // Where there are draws, they take longer than the memory does.
  static constexpr int kVectors = Stages == kEveryStage || kSpills ? 1 : vectors_in_flight(kAccesses);

  __device__ __forceinline__ UpdateWorker(const PassArguments& arguments, const Row* rows, int32_t index,
                                          bool synchronises)
      : arguments_(arguments),
        tensor_(arguments.tensors[index]),
        parameter_(static_cast<T*>(tensor_.pointer[kParameter])),
        gradient_(gradient_of<T>(arguments, index)),
        policy_(arguments.overflows_cache != 0 ? CachePolicy::let_go() : CachePolicy::as_usual()),
        rows_(rows),
        coefficients_(arguments, tensor_, rows),
        synchronises_(synchronises) {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) state_[slot] = static_cast<S*>(tensor_.pointer[kState0 + slot]);
  }

  __device__ __forceinline__ int64_t head(int64_t begin) const {
    const int64_t head = elements_to_boundary(gradient_ + begin), first = begin + head;
    bool agree = tensor_.dimensions == 0 && on_boundary(parameter_ + first);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (uses(slot)) agree = agree && on_boundary(state_[slot] + first);
    if (synchronises_) agree = agree && on_boundary(slow() + first);
    return agree ? head : -1;
  }

  __device__ __forceinline__ void one(int64_t element) {
    const Offsets offsets = offsets_of<kUsed>(tensor_, element);
    Elements<C, kSlots, 1> own;
    own.gradient[0] = load(gradient_[offsets.of[kGradient]]);
    T* const parameter = parameter_ + offsets.of[kParameter];
    if constexpr (kReadsParameter) own.parameter[0] = load(*parameter);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (uses(slot)) own.state[slot][0] = load(state_[slot][offsets.of[kState0 + slot]]);
    if (synchronises_) own.slow[0] = slow()[offsets.of[kSlow]];
    const ThreadDraws<Stages, 1> draws(arguments_, tensor_.parameter, element);
    zeros += advance(element, draws, own);
    if (synchronises_) slow()[offsets.of[kSlow]] = own.slow[0];
    *parameter = store<T>(own.parameter[0]);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (uses(slot)) state_[slot][offsets.of[kState0 + slot]] = store<S>(own.state[slot][0]);
  }

  // Behind the end the first vector is read once more, so that no load waits for a branch, and nothing is written.
  __device__ __forceinline__ void vectors(int64_t element, int64_t stride, int64_t end) {
    static_assert(kVectors == 1 || (Stages & kDrawnStages) == 0);
    Elements<C, kSlots, kElements> own[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) read(element + i * stride < end ? element + i * stride : element, own[i]);
    const ThreadDraws<Stages, kElements> draws(arguments_, tensor_.parameter, element);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t place = element + i * stride;
      const int count = advance(place, draws, own[i]);
      if (place >= end) continue;
      zeros += count;
      write(place, own[i]);
    }
  }

  int zeros = 0;  // exact ones among the parameters that this thread has written

 private:
  // Not kept in a register: it is looked at once in a few rounds.
  __device__ __forceinline__ C* slow() const { return static_cast<C*>(tensor_.pointer[kSlow]); }

  __device__ __forceinline__ void read(int64_t element, Elements<C, kSlots, kElements>& own) const {
    read_vector(gradient_ + element, own.gradient, policy_);
    if constexpr (kReadsParameter) read_vector(parameter_ + element, own.parameter, policy_);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (uses(slot)) read_vector(state_[slot] + element, own.state[slot], policy_);
    if (synchronises_) read_vector(slow() + element, own.slow, policy_);
  }

  __device__ __forceinline__ void write(int64_t element, const Elements<C, kSlots, kElements>& own) const {
    write_vector(parameter_ + element, own.parameter, policy_);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (uses(slot)) write_vector(state_[slot] + element, own.state[slot], policy_);
    if (synchronises_) write_vector(slow() + element, own.slow, policy_);
  }

  // Returns the exact zeros, which are counted before Lookahead.
  template <int kCount>
  __device__ __forceinline__ int advance(int64_t element, const ThreadDraws<Stages, kCount>& draws,
                                         Elements<C, kSlots, kCount>& own) {
    int count = 0;
#pragma unroll
    for (int lane = 0; lane < kCount; ++lane) {
      coefficients_.move_to(arguments_, tensor_, rows_, element + lane);
      C state[kSlots];
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) state[slot] = own.state[slot][lane];
      own.parameter[lane] = update<Functor, Slots, Stages>(
          coefficients_.pipeline, coefficients_.rule, own.parameter[lane], own.gradient[lane], draws.at(lane), state);
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) own.state[slot][lane] = state[slot];
      if constexpr (Functor::kCountsZeros) count += load(store<T>(own.parameter[lane])) == C(0);
    }
    if (synchronises_) {
      const C alpha = static_cast<C>(arguments_.extras.lookahead_alpha);
#pragma unroll
      for (int lane = 0; lane < kCount; ++lane)
        own.parameter[lane] = own.slow[lane] = synchronise(own.slow[lane], load(store<T>(own.parameter[lane])), alpha);
    }
    return count;
  }

  const PassArguments& arguments_;
  const DeviceTensor& tensor_;
  T* parameter_;
  const T* gradient_;
  S* state_[kSlots];
  CachePolicy policy_;
  const Row* rows_;
  ElementCoefficients<Functor, Stages, C> coefficients_;
  bool synchronises_;
};

// What one block takes. Empty where a chunk is shorter than others.
template <class T>
struct PieceOfChunk {
  int32_t tensor;
  int64_t begin, end;  // elements

  // `index`: among the pieces of this launch.
  __device__ __forceinline__ PieceOfChunk(const PassArguments& arguments, uint32_t index) {
    constexpr int64_t kPiece = kPieceBytes / static_cast<int64_t>(sizeof(T));
    const auto pieces = static_cast<uint32_t>(arguments.pieces);
    const DeviceChunk chunk = arguments.chunks[index / pieces];
    const int64_t first = static_cast<int64_t>(index % pieces) * kPiece;
    tensor = chunk.tensor;
    begin = chunk.begin + first;
    end = chunk.begin + (chunk.count - first < kPiece ? chunk.count : first + kPiece);
  }
};

// One piece of a chunk, by `kLanes` threads. `index`: of the piece, among those of this launch.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S, int kLanes>
__device__ __forceinline__ void update_piece(const PassArguments& arguments, const Row* rows, uint32_t index,
                                             bool synchronises) {
  const PieceOfChunk<T> piece(arguments, index);
  if (piece.begin >= piece.end) return;
  UpdateWorker<Functor, Slots, Stages, T, S, kLanes> worker(arguments, rows, piece.tensor, synchronises);
  for_each_element(worker, piece.begin, piece.end, static_cast<int>(threadIdx.x), kLanes);
  if constexpr (Functor::kCountsZeros) {
    double total[] = {static_cast<double>(worker.zeros)};
    sum_over_block<kLanes>(total);
    if (threadIdx.x == 0) arguments.zeros[index] = static_cast<int64_t>(total[0]);
  }
}

// All chunks, in the reverse order of the norm pass: what that pass has read last is still in the second-level cache.
// `rows`: the coefficients; null: those that ride in the arguments.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S, int kLanes>
__device__ __forceinline__ void update_chunks(const PassArguments& arguments, const Row* rows) {
  StepNumbers numbers{};
  if (arguments.numbers != nullptr) numbers = *arguments.numbers;  // at once: one load waits for no other
  if (numbers.skip != 0) return;
  const auto count = static_cast<uint32_t>(arguments.chunk_count * arguments.pieces);
#pragma unroll 1
  for (uint32_t index = blockIdx.x; index < count; index += gridDim.x)
    update_piece<Functor, Slots, Stages, T, S, kLanes>(arguments, rows, count - 1 - index, numbers.synchronises != 0);
}

// While the pass before this one ends: what the block takes first, but for the gradients, which that pass has just
// read, is on its way to the second-level cache. Tables, addresses and these values are not that pass's work.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__device__ __forceinline__ void fetch_ahead(const PassArguments& arguments) {
  const auto count = static_cast<uint32_t>(arguments.chunk_count * arguments.pieces);
  const PieceOfChunk<T> piece(arguments, count - 1 - blockIdx.x);
  if (piece.begin >= piece.end) return;
  const DeviceTensor& tensor = arguments.tensors[piece.tensor];
  if (tensor.dimensions != 0) return;
  if constexpr (kNeedsParameter<Functor, Stages>)
    fetch_lines<kUpdateThreads>(static_cast<const T*>(tensor.pointer[kParameter]), piece.begin, piece.end);
#pragma unroll
  for (int slot = 0; slot < Functor::kSlots; ++slot)
    if ((Slots >> slot & 1u) != 0)
      fetch_lines<kUpdateThreads>(static_cast<const S*>(tensor.pointer[kState0 + slot]), piece.begin, piece.end);
}

template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
__global__ void __launch_bounds__(kUpdateThreads, kUpdateBlocksPerMultiprocessor)
    update_kernel(const __grid_constant__ PassArguments arguments) {
  if (blockIdx.x < arguments.early_blocks) fetch_ahead<Functor, Slots, Stages, T, S>(arguments);
  wait_for_previous();
  update_chunks<Functor, Slots, Stages, T, S, kUpdateThreads>(arguments, arguments.rows);
}

}  // namespace torchclip::cuda
