// The update pass over operands that a precision policy holds: a warp takes a block of codes, whatever the operands
// are, so that the largest magnitude of a block is known where its codes are made.
#pragma once

#include "coded_tensor.cuh"
#include "update.cuh"

namespace torchclip::cuda {

// Where the operands of one tensor's update lie, and what is looked at of them.
template <class Functor, unsigned Slots, unsigned Stages, bool kBlocks>
class CodedOperands : public CodedTensor<kBlocks> {
 public:
  using Tensor = CodedTensor<kBlocks>;
  using Tensor::beside, Tensor::policy, Tensor::slow, Tensor::tensor, Tensor::types;
  static constexpr int kSlots = Functor::kSlots;
  static constexpr bool kReadsParameter = kNeedsParameter<Functor, Stages>;
  static constexpr unsigned kDense = operand_bit(kParameter) | Slots << kState0;
  static constexpr unsigned kUsed = kDense | operand_bit(kGradient) | operand_bit(kSlow);

  const bool synchronises;

  __device__ __forceinline__ CodedOperands(const PassArguments& arguments, int32_t index, bool synchronises)
      : CodedTensor<kBlocks>(arguments, index,
                             arguments.overflows_cache != 0 ? CachePolicy::let_go() : CachePolicy::as_usual()),
        synchronises(synchronises) {}

  TORCHCLIP_HD static constexpr bool uses(int slot) { return (Slots >> slot & 1u) != 0; }
  // Whether neighbours can be accessed together.
  __device__ __forceinline__ bool is_together() const {
    return this->template is_aligned<kDense>() && (!synchronises || reinterpret_cast<uintptr_t>(slow()) % kAccess == 0);
  }

  template <int kCount>
  __device__ __forceinline__ void load(const CodedPlace& place, Elements<float, kSlots, kCount>& own) const {
    Stored<kCount> gradient, parameter;
    StoredSlot<kCount> state[kSlots];
    this->read_gradient(place, gradient);
    if constexpr (kReadsParameter) this->read_parameter(place, parameter);
    // What is under way at once takes registers, of which draws need many, and longer than the memory.
    constexpr bool kAtOnce = Stages != kEveryStage;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (kAtOnce && uses(slot)) this->read_slot(slot, place, state[slot]);
    this->decode_gradient(gradient, own.gradient);
    if constexpr (kReadsParameter) this->decode_parameter(parameter, own.parameter);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (!uses(slot)) continue;
      if (!kAtOnce) this->read_slot(slot, place, state[slot]);
      this->decode_slot(slot, state[slot], own.state[slot]);
    }
  }

  // Not with the others: it is looked at once in a few rounds, and would take registers in all.
  template <int kCount>
  __device__ __forceinline__ void average_into_slow(const PassArguments& arguments, const StepNumbers& numbers,
                                                    const CodedPlace& place, Vector<float, kCount>& parameter) const {
    Vector<float, kCount> own;
    own.load(slow() + place.operands.of[kSlow], policy);
    average(arguments, numbers, own, parameter, [this](float value) { return this->as_stored(value); });
    own.store(slow() + place.operands.of[kSlow], policy);
  }

  // scale: of the block, of slots in blocks. Returns the exact zeros in what is written.
  template <int kCount>
  __device__ __forceinline__ int store(const PassArguments& arguments, const CodedPlace& place,
                                       const float (&scale)[kSlots], const Elements<float, kSlots, kCount>& own) const {
    uint32_t words[kCount] = {};
    if (draws(0)) draw_rounding(arguments, tensor.place, place.element, 0, words);
    const int zeros = store_parameter(place, words, own.parameter);
    if constexpr (uses(0)) store_slot(0, place, scale[0], words, own.state[0]);
    if constexpr ((Slots & 0b110u) != 0) {
      if (draws(1)) draw_rounding(arguments, tensor.place, place.element, 1, words);
#pragma unroll
      for (int slot = 1; slot < kSlots; ++slot)
        if (uses(slot)) store_slot(slot, place, scale[slot], words, own.state[slot]);
    }
    return zeros;
  }

  __device__ __forceinline__ bool has_blocks(int slot) const {
    return kBlocks && uses(slot) && is_blocks(types.slots[slot].form);
  }

 private:
  // Whether operands 2 `stream` or 2 `stream` + 1 are rounded by drawn bits.
  __device__ __forceinline__ bool draws(int stream) const {
    bool any = stream == 0 && types.parameter.form == Form::kStochastic;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      any = any || ((slot + 1) / 2 == stream && uses(slot) && types.slots[slot].form == Form::kStochastic);
    return any;
  }

  template <int kCount>
  __device__ __forceinline__ int store_parameter(const CodedPlace& place, const uint32_t (&words)[kCount],
                                                 const Vector<float, kCount>& values) const {
    const Codec codec = types.parameter;
    Stored<kCount> stored, apart;
    if (codec.form == Form::kSplit) {
      encode_split(values, stored, apart);
      apart.write(beside.parameter, place.beside, 2, policy);
    } else if (codec.form == Form::kStochastic) {
      encode_stochastic(values, words, 0, stored);
    } else {
      encode_nearest(codec.dtype, values, stored);
    }
    if (codec.form == Form::kMaster) {
      encode_nearest(DType::kFloat32, values, apart);
      apart.write(beside.parameter, place.beside, 4, policy);
    }
    stored.write(tensor.pointer[kParameter], place.operands.of[kParameter], codec.element_size(), policy);
    int zeros = 0;
    if constexpr (Functor::kCountsZeros) {
      Vector<float, kCount> written;
      decode(codec.dtype, stored, written);
#pragma unroll
      for (int i = 0; i < kCount; ++i) zeros += written[i] == 0.0f;
    }
    return zeros;
  }

  template <int kCount>
  __device__ __forceinline__ void store_slot(int slot, const CodedPlace& place, float scale,
                                             const uint32_t (&words)[kCount],
                                             const Vector<float, kCount>& values) const {
    const Codec codec = types.slots[slot];
    Stored<kCount> stored;
    if (kBlocks && is_blocks(codec.form)) {
      encode_codes(codec.form == Form::kBlocks, values, scale, stored);
    } else if (codec.form == Form::kStochastic) {
      encode_stochastic(values, words, 16 * ((slot + 1) % 2), stored);
    } else {
      encode_nearest(codec.dtype, values, stored);
    }
    stored.write(tensor.pointer[kState0 + slot], place.operands.of[kState0 + slot], codec.element_size(), policy);
  }
};

// What a warp does with one block of a tensor, or with what there is of it.
template <class Functor, unsigned Slots, unsigned Stages, bool kBlocks>
struct CodedBlock {
  using Operands = CodedOperands<Functor, Slots, Stages, kBlocks>;
  static constexpr int kSlots = Functor::kSlots;
  template <int kCount>
  using Own = Elements<float, kSlots, kCount>;

  const PassArguments& arguments;
  const StepNumbers& numbers;
  const Operands& operands;
  ElementCoefficients<Functor, Stages, float>& coefficients;

  // Before Lookahead.
  template <int kCount>
  __device__ __forceinline__ void load_new(const CodedPlace& place, Own<kCount>& own) const {
    operands.load(place, own);
    const ThreadDraws<Stages, kCount> draws(arguments, operands.tensor.place, place.element);
    advance<Functor, Slots, Stages>(arguments, operands.tensor, arguments.coefficients, coefficients, place.element,
                                    draws, own, [](float) {});
  }

  // Returns the exact zeros in what is written.
  template <int kCount>
  __device__ __forceinline__ int store(const CodedPlace& place, const float (&scale)[kSlots], Own<kCount>& own) const {
    if (operands.synchronises) operands.average_into_slow(arguments, numbers, place, own.parameter);
    return operands.store(arguments, place, scale, own);
  }

  __device__ __forceinline__ void store_absmax(int64_t begin, const float (&scale)[kSlots]) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (operands.has_blocks(slot) && lane_in_warp() == 0)
        operands.beside.absmax[slot][begin / kBlock] = scale[slot] * kLastStep;
  }

  // All of it. Returns the zeros that the thread has written.
  __device__ __forceinline__ int take_together(int64_t begin) const {
    const CodedPlace place = Operands::in_order(begin + lane_in_warp() * kTogether);
    Own<kTogether> own;
    load_new(place, own);
    float scale[kSlots] = {};
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (operands.has_blocks(slot)) scale[slot] = scale_of_warp(largest(own.state[slot]));
    store_absmax(begin, scale);
    return store(place, scale, own);
  }

  // One by one, as they lie: twice where there are codes, first for the largest magnitude.
  __device__ __forceinline__ int take_apart(int64_t begin, int64_t end) const {
    bool has_codes = false;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) has_codes = has_codes || operands.has_blocks(slot);
    uint32_t bits[kSlots] = {};
    float scale[kSlots] = {};
    int zeros = 0;
#pragma unroll 1
    for (int pass = has_codes ? 0 : 1; pass < 2; ++pass) {
#pragma unroll 1
      for (int64_t element = begin + lane_in_warp(); element < end; element += kWarp) {
        const CodedPlace place = operands.template place_of<Operands::kUsed>(element);
        Own<1> own;
        load_new(place, own);
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
          const uint32_t own_bits = largest(own.state[slot]);
          bits[slot] = own_bits > bits[slot] ? own_bits : bits[slot];
        }
        if (pass == 1) zeros += store(place, scale, own);
      }
      if (pass == 1) continue;
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) scale[slot] = scale_of_warp(bits[slot]);
    }
    __syncwarp();  // all threads have read the one before
    store_absmax(begin, scale);
    return zeros;
  }
};

// As update_chunks().
template <class Functor, unsigned Slots, unsigned Stages, bool kBlocks>
__device__ __forceinline__ void update_coded_chunks(const PassArguments& arguments) {
  using Block = CodedBlock<Functor, Slots, Stages, kBlocks>;
  StepNumbers numbers{};
  if (arguments.numbers != nullptr) numbers = *arguments.numbers;  // at once: one load waits for no other
  if (numbers.skip != 0) return;
  const auto count = static_cast<uint32_t>(arguments.chunk_count * arguments.pieces);
#pragma unroll 1
  for (uint32_t index = blockIdx.x; index < count; index += gridDim.x) {
    const PieceOfChunk<float> piece(arguments, count - 1 - index);
    if (piece.begin >= piece.end) continue;
    const typename Block::Operands operands(arguments, piece.tensor, numbers.synchronises != 0);
    ElementCoefficients<Functor, Stages, float> coefficients(arguments, operands.tensor, arguments.coefficients);
    const Block block{arguments, numbers, operands, coefficients};
    const int64_t first = piece.begin + warp_in_block() * kBlock, last = piece.end - piece.end % kBlock;
    const int64_t end = operands.is_together() ? last : piece.begin;
    constexpr int64_t kStride = kUpdateThreads / kWarp * kBlock;
    int zeros = 0;
    int64_t begin = first;
#pragma unroll 1
    for (; begin < end; begin += kStride) zeros += block.take_together(begin);
#pragma unroll 1
    for (; begin < piece.end; begin += kStride)
      zeros += block.take_apart(begin, begin + kBlock < piece.end ? begin + kBlock : piece.end);
    if constexpr (Functor::kCountsZeros) {
      double total[] = {static_cast<double>(zeros)};
      sum_over_block<kUpdateThreads>(total);
      if (threadIdx.x == 0) arguments.zeros[count - 1 - index] = static_cast<int64_t>(total[0]);
    }
  }
}

// As fetch_ahead().
template <class Functor, unsigned Slots, unsigned Stages>
__device__ __forceinline__ void fetch_coded_ahead(const PassArguments& arguments) {
  const auto count = static_cast<uint32_t>(arguments.chunk_count * arguments.pieces);
  const PieceOfChunk<float> piece(arguments, count - 1 - blockIdx.x);
  if (piece.begin >= piece.end) return;
  const DeviceTensor& tensor = arguments.tensors[piece.tensor];
  if (tensor.dimensions != 0) return;
  const auto fetch = [&](const void* operand, int64_t size) {
    fetch_lines<kUpdateThreads>(static_cast<const char*>(operand), piece.begin * size, piece.end * size);
  };
  const Types& types = arguments.types;
  if constexpr (kNeedsParameter<Functor, Stages>)
    if (types.parameter.form != Form::kMaster) fetch(tensor.pointer[kParameter], types.parameter.element_size());
#pragma unroll
  for (int slot = 0; slot < Functor::kSlots; ++slot)
    if ((Slots >> slot & 1u) != 0) fetch(tensor.pointer[kState0 + slot], types.slots[slot].element_size());
}

// `kBlocks`: some slot is in blocks; where there are none, the kernel has no room for them. Draws, three slots, and
// codes take more registers than four blocks per multiprocessor leave.
template <class Functor, unsigned Slots, unsigned Stages, bool kBlocks>
__global__ void __launch_bounds__(kUpdateThreads, (Stages == kEveryStage ? 2 : (Slots == 7 || kBlocks ? 3 : 4)))
    coded_update_kernel(const __grid_constant__ PassArguments arguments) {
  if (blockIdx.x < arguments.early_blocks) fetch_coded_ahead<Functor, Slots, Stages>(arguments);
  wait_for_previous();
  update_coded_chunks<Functor, Slots, Stages, kBlocks>(arguments);
}

}  // namespace torchclip::cuda
