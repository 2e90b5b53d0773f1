// How the operands of one parameter lie in memory under a precision policy: what of a float32 value is stored, and the
// arithmetic of one element. torchclip/policies/precision/codec.py has the policies' side.
#pragma once

#include <limits>

#include "step/tables.h"

namespace torchclip {

// How a value becomes what lies in memory. Python names them by number: torchclip.backends.held.FORMS.
enum class Form : uint8_t {
  kNearest,         // rounded to the nearest of its type, ties to even
  kStochastic,      // rounded to bfloat16 up or down, with the probabilities that make the mean exact
  kSplit,           // bfloat16, and beside it the 16 bits that it lacks
  kMaster,          // rounded to nearest, and beside it the float32 value
  kBlocks,          // an 8-bit code for each element, and a float32 absmax for each block
  kUnsignedBlocks,  // the same of values that are never negative
};
TORCHCLIP_HD constexpr bool is_blocks(Form form) { return form == Form::kBlocks || form == Form::kUnsignedBlocks; }

// Elements that share one absmax: consecutive ones in memory; the last block of a tensor may be shorter.
constexpr int64_t kBlock = 256;

struct Codec {
  Form form = Form::kNearest;
  DType dtype = DType::kFloat32;  // of the operand's own tensor, where that is of floating point
  bool operator==(const Codec&) const = default;
  TORCHCLIP_HD int64_t element_size() const { return is_blocks(form) ? 1 : torchclip::element_size(dtype); }
};

// The operands of a parameter. A slot that is not in use is float32.
struct Types {
  Codec parameter, slots[kMaxSlots];
  DType gradient = DType::kFloat32;
  bool operator==(const Types&) const = default;
  bool draws() const {
    bool any = parameter.form == Form::kStochastic;
    for (const Codec& slot : slots) any |= slot.form == Form::kStochastic;
    return any;
  }
  bool has_blocks() const {
    bool any = false;
    for (const Codec& slot : slots) any |= is_blocks(slot.form);
    return any;
  }
};

// What codecs keep beside the operands of one tensor.
struct Beside {
  void* parameter = nullptr;          // [elements], of int16 under kSplit, of float32 under kMaster
  float* absmax[kMaxSlots] = {};      // [blocks], where a slot is in blocks
  std::vector<int64_t> strides = {};  // of `parameter`, as StridedLayout's
};

// A float32 value as the nearest bfloat16, ties away from zero, and what its bits are more.
TORCHCLIP_HD BFloat16 upper_part(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<BFloat16>(static_cast<uint16_t>(is_nan ? 0x7fc0u : (bits + 0x8000u) >> 16));
}
TORCHCLIP_HD int16_t lower_part(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<int16_t>(static_cast<uint16_t>(is_nan ? 0u : bits));
}

// The value of which these are the parts; the parameter's own where it makes no such pair: something else has written
// the parameter, and left the remainder.
TORCHCLIP_HD float join(BFloat16 high, int16_t low) {
  const uint32_t upper = static_cast<uint32_t>(high) << 16;
  const uint32_t added = static_cast<uint32_t>(static_cast<int32_t>(low));
  // Below zero, which wraps, or beyond infinity.
  const bool is_stray = (upper & 0x7fffffffu) + added > 0x7f800000u;
  return bit_cast<float>(upper + (is_stray ? 0u : added));
}

// Rounded to bfloat16 away from zero where its lower 16 bits and these reach 2^16, else towards it.
TORCHCLIP_HD BFloat16 stochastic(float value, uint32_t bits) {  // bits: in [0, 2^16)
  const uint32_t own = bit_cast<uint32_t>(value);
  const bool is_nan = (own & 0x7fffffffu) > 0x7f800000u;
  return static_cast<BFloat16>(static_cast<uint16_t>(is_nan ? 0x7fc0u : (own + bits) >> 16));
}

// Draws of two operands share a word: operands 2 i and 2 i + 1, the parameter 0 and the slots from 1 on, have the lower
// and the upper 16 bits of the words of stream kRoundingStream + i.
constexpr uint32_t kRoundingStream = 3;

// The map of codes: torchclip.Blockwise8bit has the equations. The bits of a float are its piecewise linear logarithm,
// with an offset; shifted they are that of a root. Codes are whole steps of roots, in two's complement.
template <bool is_signed>
struct RootMap {
  static constexpr int kHalvings = is_signed ? 1 : 2, kStepBits = is_signed ? 7 : 8;
  static constexpr float kStep = is_signed ? 0x1p-7f : 0x1p-8f;
  static constexpr uint32_t kOne = 0x3f800000u, kOffset = kOne - (kOne >> kHalvings);  // kOne: the bits of 1
  // Where a float's last place is a step: what is added to it is rounded to the nearest, ties to even, and the number
  // of the step is the sum's last bits.
  static constexpr float kRounder = 0x1.8p23f * kStep;
};
constexpr float kLastStep = 63.0f / 64;  // the power of the last step, of either map
constexpr float kInfinite = std::numeric_limits<float>::infinity();

// What 1 on the map stands for in a block, in 17 bits: powers have the other 7, so that products are exact, and the
// scale of the absmax that codes stand for is the one that they were made by. 0 of 0; else not so small or large that
// its inverse is no normal number, and infinite, or NaN, from there on.
TORCHCLIP_HD float scale_of(float absmax) {
  constexpr float kLeast = 0x1p-120f, kBehindMost = 0x1p126f;
  const float exact = (absmax > 0.0f && absmax < kLeast ? kLeast : absmax) * (1 / kLastStep);
  const float rounded = bit_cast<float>((bit_cast<uint32_t>(exact) + 0x40u) & ~0x7fu);
  return exact < kBehindMost ? rounded : exact + kInfinite;
}
// 0 where all codes are 0.
TORCHCLIP_HD float inverse_of(float scale) { return scale > 0.0f && scale < kInfinite ? 1.0f / scale : 0.0f; }

// inverse: of the scale, not 0. What is above zero divides where it has no sign, and stays above.
template <bool is_signed>
TORCHCLIP_HD uint8_t encode(float value, float inverse) {
  using Map = RootMap<is_signed>;
  const uint32_t bits = bit_cast<uint32_t>(magnitude(value * inverse));
  float root = bit_cast<float>((bits >> Map::kHalvings) + Map::kOffset);
  if constexpr (is_signed) {
    root = with_sign_of(root, value);
  } else {  // by bits: of a choice of floats g++ makes a branch
    root = root > Map::kStep ? root : Map::kStep;
    root = bit_cast<float>(bit_cast<uint32_t>(root) & (value > 0.0f ? ~0u : 0u));
  }
  return static_cast<uint8_t>(bit_cast<uint32_t>(root + Map::kRounder));
}

template <bool is_signed>
TORCHCLIP_HD float decode(uint8_t code, float scale) {
  using Map = RootMap<is_signed>;
  const auto step = static_cast<float>(is_signed ? static_cast<int32_t>(static_cast<int8_t>(code)) : int32_t{code});
  constexpr auto kOffset = static_cast<int32_t>(Map::kOffset + (static_cast<uint32_t>(Map::kStepBits) << 23));
  const int32_t bits = bit_cast<int32_t>(magnitude(step)) - kOffset;
  const uint32_t power = static_cast<uint32_t>(bits > 0 ? bits : 0) << Map::kHalvings;  // of 0, 0
  const float size = bit_cast<float>(power) * scale;
  return is_signed ? with_sign_of(size, step) : size;
}

}  // namespace torchclip
