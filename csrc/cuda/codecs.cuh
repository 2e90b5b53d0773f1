// Operands that a precision policy holds, between their memory and float32 in registers. A thread takes eight
// neighbours at a time, 16 bytes of halves, and a warp a block of codes; codecs are those of a whole launch, so that
// all threads branch alike.
#pragma once

#include "../codecs.h"
#include "reduce.cuh"
#include "vector.cuh"

namespace torchclip::cuda {

constexpr int kTogether = 8;
static_assert(kBlock == kWarp * kTogether);

// Neighbours as they lie in memory: each in a word of its own where there is one, else side by side, in as many words
// as they need.
template <int kCount>
struct Stored {
  static_assert(kCount == 1 || kCount == kTogether);
  uint32_t words[kCount];

  // `size`: bytes of an element. Of several the first lies on a boundary of as many bytes as an access has.
  __device__ __forceinline__ void read(const void* memory, int64_t element, int64_t size, CachePolicy policy) {
    const char* const from = static_cast<const char*>(memory) + element * size;
    if constexpr (kCount == 1) {
      words[0] = size == 4   ? *reinterpret_cast<const uint32_t*>(from)
                 : size == 2 ? *reinterpret_cast<const uint16_t*>(from)
                             : *reinterpret_cast<const uint8_t*>(from);
    } else if (size == 1) {
      put(policy.read(reinterpret_cast<const uint2*>(from)));
    } else {
      put<0>(policy.read(reinterpret_cast<const uint4*>(from)));
      if (size == 4) put<4>(policy.read(reinterpret_cast<const uint4*>(from) + 1));
    }
  }
  // Remainders, into the upper half of what the halves that they belong to leave free.
  __device__ __forceinline__ void read_behind(const void* memory, int64_t element, CachePolicy policy) {
    const char* const from = static_cast<const char*>(memory) + element * 2;
    if constexpr (kCount == 1) {
      words[0] |= static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(from)) << 16;
    } else {
      put<4>(policy.read(reinterpret_cast<const uint4*>(from)));
    }
  }
  __device__ __forceinline__ void write(void* memory, int64_t element, int64_t size, CachePolicy policy) const {
    char* const to = static_cast<char*>(memory) + element * size;
    if constexpr (kCount == 1) {
      if (size == 4) {
        *reinterpret_cast<uint32_t*>(to) = words[0];
      } else if (size == 2) {
        *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(words[0]);
      } else {
        *reinterpret_cast<uint8_t*>(to) = static_cast<uint8_t>(words[0]);
      }
    } else if (size == 1) {
      policy.write(reinterpret_cast<uint2*>(to), uint2{words[0], words[1]});
    } else {
      policy.write(reinterpret_cast<uint4*>(to), uint4{words[0], words[1], words[2], words[3]});
      if (size == 4) policy.write(reinterpret_cast<uint4*>(to) + 1, uint4{words[4], words[5], words[6], words[7]});
    }
  }

  __device__ __forceinline__ uint32_t half(int i) const {
    return kCount == 1 ? words[0] : words[i / 2] >> 16 * (i % 2);
  }
  __device__ __forceinline__ uint32_t half_behind(int i) const {
    return kCount == 1 ? words[0] >> 16 : words[4 + i / 2] >> 16 * (i % 2);
  }
  __device__ __forceinline__ uint32_t byte(int i) const {
    return (kCount == 1 ? words[0] : words[i / 4] >> 8 * (i % 4)) & 0xffu;
  }
  // In ascending order of i.
  __device__ __forceinline__ void put_half(int i, uint32_t bits) {
    if (kCount == 1 || i % 2 == 0) {
      words[i / 2] = bits;
    } else {
      words[i / 2] |= bits << 16;
    }
  }
  __device__ __forceinline__ void put_byte(int i, uint32_t bits) {
    if (kCount == 1 || i % 4 == 0) {
      words[i / 4] = bits;
    } else {
      words[i / 4] |= bits << 8 * (i % 4);
    }
  }

 private:
  __device__ __forceinline__ void put(const uint2& bits) {
    words[0] = bits.x;
    words[1] = bits.y;
  }
  template <int kFirst>
  __device__ __forceinline__ void put(const uint4& bits) {
    words[kFirst] = bits.x;
    words[kFirst + 1] = bits.y;
    words[kFirst + 2] = bits.z;
    words[kFirst + 3] = bits.w;
  }
};

template <class T>
__device__ __forceinline__ uint32_t bits_of(T half) {
  return static_cast<uint16_t>(half);
}

template <int kCount>
__device__ __forceinline__ void decode(DType dtype, const Stored<kCount>& stored, Vector<float, kCount>& values) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (dtype == DType::kFloat32) {
      values[i] = bit_cast<float>(stored.words[i]);
    } else if (dtype == DType::kBFloat16) {
      values[i] = torchclip::load(static_cast<BFloat16>(static_cast<uint16_t>(stored.half(i))));
    } else {
      values[i] = torchclip::load(static_cast<Float16>(static_cast<uint16_t>(stored.half(i))));
    }
  }
}

template <int kCount>
__device__ __forceinline__ void decode_split(const Stored<kCount>& stored, Vector<float, kCount>& values) {
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    values[i] = join(static_cast<BFloat16>(static_cast<uint16_t>(stored.half(i))),
                     static_cast<int16_t>(static_cast<uint16_t>(stored.half_behind(i))));
}

template <int kCount>
__device__ __forceinline__ void decode_codes(bool is_signed, float absmax, const Stored<kCount>& stored,
                                             Vector<float, kCount>& values) {
  const float scale = scale_of(absmax);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const auto code = static_cast<uint8_t>(stored.byte(i));
    values[i] = is_signed ? torchclip::decode<true>(code, scale) : torchclip::decode<false>(code, scale);
  }
}

template <int kCount>
__device__ __forceinline__ void encode_nearest(DType dtype, const Vector<float, kCount>& values,
                                               Stored<kCount>& stored) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (dtype == DType::kFloat32) {
      stored.words[i] = bit_cast<uint32_t>(values.values[i]);
    } else if (dtype == DType::kBFloat16) {
      stored.put_half(i, bits_of(torchclip::store<BFloat16>(values.values[i])));
    } else {
      stored.put_half(i, bits_of(torchclip::store<Float16>(values.values[i])));
    }
  }
}

template <int kCount>
__device__ __forceinline__ void encode_split(const Vector<float, kCount>& values, Stored<kCount>& high,
                                             Stored<kCount>& low) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    high.put_half(i, bits_of(upper_part(values.values[i])));
    low.put_half(i, bits_of(lower_part(values.values[i])));
  }
}

// bits: [kCount], of which 16 from `shift` on are taken.
template <int kCount>
__device__ __forceinline__ void encode_stochastic(const Vector<float, kCount>& values, const uint32_t (&bits)[kCount],
                                                  int shift, Stored<kCount>& stored) {
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    stored.put_half(i, bits_of(stochastic(values.values[i], bits[i] >> shift & 0xffffu)));
}

template <int kCount>
__device__ __forceinline__ void encode_codes(bool is_signed, const Vector<float, kCount>& values, float scale,
                                             Stored<kCount>& stored) {
  const float inverse = inverse_of(scale);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float value = values.values[i];
    const uint32_t code =
        is_signed ? torchclip::encode<true>(value, inverse) : torchclip::encode<false>(value, inverse);
    stored.put_byte(i, inverse > 0.0f ? code : 0u);
  }
}

// The bits of the largest magnitude: of a NaN where there is one, whose bits are larger than those of any number.
template <int kCount>
__device__ __forceinline__ uint32_t largest(const Vector<float, kCount>& values) {
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const uint32_t own = bit_cast<uint32_t>(values.values[i]) & 0x7fffffffu;
    bits = own > bits ? own : bits;
  }
  return bits;
}

// The scale of a warp's, in all its threads, which must all call it.
__device__ __forceinline__ float scale_of_warp(uint32_t bits) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(kWholeWarp, bits, distance);
    bits = other > bits ? other : bits;
  }
  return scale_of(bit_cast<float>(bits));
}

}  // namespace torchclip::cuda
