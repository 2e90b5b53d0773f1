// A tensor whose operands a precision policy holds, as the passes read it.
#pragma once

#include "codecs.cuh"
#include "draws.cuh"
#include "operands.cuh"

namespace torchclip::cuda {

// Whether neighbours from every kTogether-th element on are such in the whole tensor too, the first at a multiple of 4.
__device__ __forceinline__ bool rounds_together(const DrawPlace& place) {
  return place.offset % 4 == 0 && place.outer % 4 == 0 && draws_together<kTogether>(place, 0);
}

// Where neighbours lie: `element` is the number of the first.
struct CodedPlace {
  int64_t element;
  Offsets operands;
  int64_t beside;
};

// Neighbours of a slot as they lie in memory.
template <int kCount>
struct StoredSlot {
  Stored<kCount> own;
  float absmax;
};

// `kBlocks`: some slot may be in blocks.
template <bool kBlocks>
class CodedTensor {
 public:
  const DeviceTensor& tensor;
  const DeviceBeside& beside;
  const Types& types;
  CachePolicy policy;

  __device__ __forceinline__ CodedTensor(const PassArguments& arguments, int32_t index, CachePolicy policy)
      : tensor(arguments.tensors[index]),
        beside(arguments.beside[index]),
        types(arguments.types),
        policy(policy),
        gradient_(gradient_of<void>(arguments, index)) {}

  // Whether neighbours can be accessed together from element 0 on, and from every kTogether-th.
  template <unsigned Used>
  __device__ __forceinline__ bool is_aligned() const {
    uintptr_t bits = reinterpret_cast<uintptr_t>(gradient_) | reinterpret_cast<uintptr_t>(beside.parameter);
#pragma unroll
    for (int operand = 0; operand < kOperands; ++operand)
      if ((Used & operand_bit(operand)) != 0) bits |= reinterpret_cast<uintptr_t>(tensor.pointer[operand]);
    return tensor.dimensions == 0 && bits % kAccess == 0 && rounds_together(tensor.place);
  }

  static __device__ __forceinline__ CodedPlace in_order(int64_t element) {
    return {element, torchclip::cuda::in_order(element), element};
  }
  // `Used`: see offsets_of.
  template <unsigned Used>
  __device__ __forceinline__ CodedPlace place_of(int64_t element) const {
    CodedPlace place{element, offsets_of<Used>(tensor, element), element};
    if (tensor.dimensions == 0 || beside.parameter == nullptr) return place;
    place.beside = 0;
    const int64_t* const strides = tensor.layout + (1 + kOperands) * static_cast<int64_t>(tensor.dimensions);
#pragma unroll 1
    for (int32_t dimension = tensor.dimensions - 1; dimension >= 0; --dimension) {
      const int64_t size = tensor.layout[dimension];
      place.beside += element % size * strides[dimension];
      element /= size;
    }
    return place;
  }

  template <int kCount>
  __device__ __forceinline__ void read_gradient(const CodedPlace& place, Stored<kCount>& stored) const {
    stored.read(gradient_, place.operands.of[kGradient], element_size(types.gradient), policy);
  }
  template <int kCount>
  __device__ __forceinline__ void decode_gradient(const Stored<kCount>& stored, Vector<float, kCount>& values) const {
    decode(types.gradient, stored, values);
  }

  template <int kCount>
  __device__ __forceinline__ void read_parameter(const CodedPlace& place, Stored<kCount>& stored) const {
    const Codec codec = types.parameter;
    if (codec.form == Form::kMaster) return stored.read(beside.parameter, place.beside, 4, policy);
    stored.read(tensor.pointer[kParameter], place.operands.of[kParameter], codec.element_size(), policy);
    if (codec.form == Form::kSplit) stored.read_behind(beside.parameter, place.beside, policy);
  }
  template <int kCount>
  __device__ __forceinline__ void decode_parameter(const Stored<kCount>& stored, Vector<float, kCount>& values) const {
    const Codec codec = types.parameter;
    if (codec.form == Form::kSplit) return decode_split(stored, values);
    decode(codec.form == Form::kMaster ? DType::kFloat32 : codec.dtype, stored, values);
  }

  template <int kCount>
  __device__ __forceinline__ void read_slot(int slot, const CodedPlace& place, StoredSlot<kCount>& stored) const {
    const Codec codec = types.slots[slot];
    stored.own.read(tensor.pointer[kState0 + slot], place.operands.of[kState0 + slot], codec.element_size(), policy);
    if (kBlocks && is_blocks(codec.form)) stored.absmax = beside.absmax[slot][place.element / kBlock];
  }
  template <int kCount>
  __device__ __forceinline__ void decode_slot(int slot, const StoredSlot<kCount>& stored,
                                              Vector<float, kCount>& values) const {
    const Codec codec = types.slots[slot];
    if (kBlocks && is_blocks(codec.form))
      return decode_codes(codec.form == Form::kBlocks, stored.absmax, stored.own, values);
    decode(codec.dtype, stored.own, values);
  }

  // Not kept in a register: it is looked at once in a few rounds.
  __device__ __forceinline__ float* slow() const { return static_cast<float*>(tensor.pointer[kSlow]); }
  // A new value as a later step will find it; where it is rounded at random, which happens once, as it is.
  __device__ __forceinline__ float as_stored(float value) const {
    if (types.parameter.form != Form::kNearest || types.parameter.dtype == DType::kFloat32) return value;
    const bool is_bfloat16 = types.parameter.dtype == DType::kBFloat16;
    return is_bfloat16 ? torchclip::load(torchclip::store<BFloat16>(value))
                       : torchclip::load(torchclip::store<Float16>(value));
  }

 private:
  const void* gradient_;
};

}  // namespace torchclip::cuda
