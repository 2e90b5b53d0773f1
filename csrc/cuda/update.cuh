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
  Vector<C, kCount> parameter, gradient, state[kSlots], slow;
};

// Where the operands of one tensor's update lie, and what is looked at of them.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S>
struct UpdateOperands {
  using C = ComputeType<T>;
  static constexpr int kSlots = Functor::kSlots;
  static constexpr bool kReadsParameter = kNeedsParameter<Functor, Stages>;
  static constexpr unsigned kUsed =
      operand_bit(kParameter) | operand_bit(kGradient) | Slots << kState0 | operand_bit(kSlow);

  const DeviceTensor& tensor;
  T* parameter;
  const T* gradient;
  S* state[kSlots];
  CachePolicy policy;
  bool synchronises;

  __device__ __forceinline__ UpdateOperands(const PassArguments& arguments, int32_t index, bool synchronises)
      : tensor(arguments.tensors[index]),
        parameter(static_cast<T*>(tensor.pointer[kParameter])),
        gradient(gradient_of<T>(arguments, index)),
        policy(arguments.overflows_cache != 0 ? CachePolicy::let_go() : CachePolicy::as_usual()),
        synchronises(synchronises) {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) state[slot] = static_cast<S*>(tensor.pointer[kState0 + slot]);
  }

  TORCHCLIP_HD static constexpr bool uses(int slot) { return (Slots >> slot & 1u) != 0; }
  // Not kept in a register: it is looked at once in a few rounds.
  __device__ __forceinline__ C* slow() const { return static_cast<C*>(tensor.pointer[kSlow]); }

  // See Split.
  __device__ __forceinline__ int64_t head(int64_t begin) const {
    const int64_t head = elements_to_boundary(parameter + begin), first = begin + head;
    bool agree = tensor.dimensions == 0 && (kGradientAnywhere<Stages, T> || on_boundary(gradient + first));
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (uses(slot)) agree = agree && on_boundary(state[slot] + first);
    if (synchronises) agree = agree && on_boundary(slow() + first);
    if constexpr (kDraws<Stages>) agree = agree && draws_together<kWidth<T>>(tensor.place, first);
    return agree ? head : -1;
  }

  // `whole_gradient`: whether the gradient lies on the others' boundary.
  template <int kCount>
  __device__ __forceinline__ void load(const Offsets& at, bool whole_gradient, Elements<C, kSlots, kCount>& own) const {
    own.gradient.load(gradient + at.of[kGradient], policy, whole_gradient);
    if constexpr (kReadsParameter) own.parameter.load(parameter + at.of[kParameter], policy);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (uses(slot)) own.state[slot].load(state[slot] + at.of[kState0 + slot], policy);
    if (synchronises) own.slow.load(slow() + at.of[kSlow], policy);
  }

  template <int kCount>
  __device__ __forceinline__ void store(const Offsets& at, const Elements<C, kSlots, kCount>& own) const {
    own.parameter.store(parameter + at.of[kParameter], policy);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (uses(slot)) own.state[slot].store(state[slot] + at.of[kState0 + slot], policy);
    if (synchronises) own.slow.store(slow() + at.of[kSlow], policy);
  }
};

// Vectors that one of `kLanes` threads of the update has in flight.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S, int kLanes>
TORCHCLIP_HD constexpr int update_vectors() {
  constexpr int kSlotCount = (Slots & 1u) + (Slots >> 1 & 1u) + (Slots >> 2 & 1u);
  constexpr int kAccesses = (kNeedsParameter<Functor, Stages> ? 2 : 1) +
                            kSlotCount * static_cast<int>(sizeof(S)) / static_cast<int>(sizeof(T));
  // What float16 is widened to at once, here 64 numbers: more than there are registers for, but in a kernel that does
  // nothing else, and there up to sm_90.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1000
  static_assert(kThreads != kUpdateThreads);
  constexpr bool kHasRoom = kLanes == kUpdateThreads;
#else
  constexpr bool kHasRoom = false;
#endif
  constexpr bool kSpills = std::is_same_v<T, Float16> && kAccesses == 4 && !kHasRoom;
  // Where there are draws, they take longer than the memory does.
  return Stages == kEveryStage || kSpills ? 1 : vectors_in_flight(kAccesses);
}

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

// Neighbours from `element` on, with what comes before Lookahead. `visit`: is called with each new parameter.
template <class Functor, unsigned Slots, unsigned Stages, class C, int kCount, class Visit>
__device__ __forceinline__ void advance(const PassArguments& arguments, const DeviceTensor& tensor,
                                        const Coefficients* sets, ElementCoefficients<Functor, Stages, C>& coefficients,
                                        int64_t element, const ThreadDraws<Stages, kCount>& draws,
                                        Elements<C, Functor::kSlots, kCount>& own, const Visit& visit) {
  constexpr int kSlots = Functor::kSlots;
#pragma unroll
  for (int lane = 0; lane < kCount; ++lane) {
    coefficients.move_to(arguments, tensor, sets, element + lane);
    C state[kSlots];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) state[slot] = own.state[slot][lane];
    own.parameter[lane] = update<Functor, Slots, Stages>(coefficients.pipeline, coefficients.rule, own.parameter[lane],
                                                         own.gradient[lane], draws.at(lane), state);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) own.state[slot][lane] = state[slot];
    visit(own.parameter[lane]);
  }
}

// Lookahead's end of a round, or WeightEMA's average. `as_stored`: a new parameter as a later step will find it.
template <class C, int kCount, class AsStored>
__device__ __forceinline__ void average(const PassArguments& arguments, const StepNumbers& numbers,
                                        Vector<C, kCount>& slow, Vector<C, kCount>& parameter,
                                        const AsStored& as_stored) {
  const C weight = static_cast<C>(numbers.average_weight);
#pragma unroll
  for (int lane = 0; lane < kCount; ++lane) {
    slow[lane] = synchronise(slow[lane], as_stored(parameter[lane]), weight);
    if (!arguments.extras.averages) parameter[lane] = slow[lane];
  }
}

// All chunks, in the reverse order of the norm pass: what that pass has read last is still in the second-level cache.
// By `kLanes` threads a block. `sets`: see coefficients_of.
template <class Functor, unsigned Slots, unsigned Stages, class T, class S, int kLanes>
__device__ __forceinline__ void update_chunks(const PassArguments& arguments, const Coefficients* sets) {
  using C = ComputeType<T>;
  using Operands = UpdateOperands<Functor, Slots, Stages, T, S>;
  constexpr int kSlots = Functor::kSlots, kVectors = update_vectors<Functor, Slots, Stages, T, S, kLanes>();
  constexpr int64_t kStride = kLanes * kWidth<T>;
  static_assert(kVectors == 1 || (Stages & kDrawnStages) == 0);
  StepNumbers numbers{};
  if (arguments.numbers != nullptr) numbers = *arguments.numbers;  // at once: one load waits for no other
  if (numbers.skip != 0) return;
  const auto count = static_cast<uint32_t>(arguments.chunk_count * arguments.pieces);
#pragma unroll 1
  for (uint32_t index = blockIdx.x; index < count; index += gridDim.x) {
    const PieceOfChunk<T> piece(arguments, count - 1 - index);
    if (piece.begin >= piece.end) continue;
    const Operands operands(arguments, piece.tensor, numbers.synchronises != 0);
    ElementCoefficients<Functor, Stages, C> coefficients(arguments, operands.tensor, sets);

    // Neighbours from `element` on; returns their exact zeros, which are counted before Lookahead.
    const auto take = [&](int64_t element, const auto& draws, auto& own) {
      const auto as_stored = [](C value) { return load(store<T>(value)); };
      int zeros = 0;
      advance<Functor, Slots, Stages>(arguments, operands.tensor, sets, coefficients, element, draws, own,
                                      [&](C value) {
                                        if constexpr (Functor::kCountsZeros) zeros += as_stored(value) == C(0);
                                      });
      if (operands.synchronises) average(arguments, numbers, own.slow, own.parameter, as_stored);
      return zeros;
    };

    int zeros = 0;
    const Split split(piece.begin, piece.end, operands.head(piece.begin), kWidth<T>);
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < split.alone(); i += kLanes) {
      const int64_t element = split.element(i);
      const Offsets at = offsets_of<Operands::kUsed>(operands.tensor, element);
      Elements<C, kSlots, 1> own;
      operands.load(at, false, own);
      const ThreadDraws<Stages, 1> draws(arguments, operands.tensor.place, element);
      zeros += take(element, draws, own);
      operands.store(at, own);
    }
    const bool whole_gradient = !kGradientAnywhere<Stages, T> || on_boundary(operands.gradient + split.first);
    // Behind the end the first vector is read once more, so that no load waits for a branch, and nothing is written.
#pragma unroll 1
    for (int64_t element = split.first + threadIdx.x * kWidth<T>; element < split.last; element += kStride * kVectors) {
      Elements<C, kSlots, kWidth<T>> own[kVectors];
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
        operands.load(in_order(element + i * kStride < split.last ? element + i * kStride : element), whole_gradient,
                      own[i]);
      const ThreadDraws<Stages, kWidth<T>> draws(arguments, operands.tensor.place, element);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int64_t place = element + i * kStride;
        const int own_zeros = take(place, draws, own[i]);
        if (place >= split.last) continue;
        zeros += own_zeros;
        operands.store(in_order(place), own[i]);
      }
    }
    if constexpr (Functor::kCountsZeros) {
      double total[] = {static_cast<double>(zeros)};
      sum_over_block<kLanes>(total);
      if (threadIdx.x == 0) arguments.zeros[count - 1 - index] = static_cast<int64_t>(total[0]);
    }
  }
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
  update_chunks<Functor, Slots, Stages, T, S, kUpdateThreads>(arguments, arguments.coefficients);
}

}  // namespace torchclip::cuda
