// Standard normal numbers from random words by Box, Muller, A Note on the Generation of Random Normal Deviates, Annals
// of Mathematical Statistics, 1958:
//
//     n1 = sqrt(-2 ln u) cos(2 pi a),   n2 = sqrt(-2 ln u) sin(2 pi a)
//
// Every operation is one that IEEE 754 rounds, each by itself, so that all backends get the same bits: no fused
// multiply-add and no library function but the root. The polynomials are minimax fits, off by a few parts in a hundred
// thousand at the most.
#pragma once

#if defined(__USE_FAST_MATH__) || defined(__FAST_MATH__)
#error "the draws are the same bits everywhere, and fast math would round them otherwise: leave the option out"
#endif

#include "scalar_ops.h"

namespace torchclip {

#if defined(__CUDA_ARCH__)
TORCHCLIP_HD float rounded_product(float a, float b) { return __fmul_rn(a, b); }
TORCHCLIP_HD float rounded_sum(float a, float b) { return __fadd_rn(a, b); }
#else
// The file that includes this for the host must keep its compiler from contracting the two.
TORCHCLIP_HD float rounded_product(float a, float b) { return a * b; }
TORCHCLIP_HD float rounded_sum(float a, float b) { return a + b; }
#endif

TORCHCLIP_HD float horner(float value, float x, float coefficient) {
  return rounded_sum(rounded_product(value, x), coefficient);
}

// sqrt(-2 ln u) for u = k / 2^24, k = word / 2^8 + 1.
TORCHCLIP_HD float normal_radius(uint32_t word) {
  // k = 2^24 2^e (1 + x) with 1 + x in [sqrt(1/2), sqrt(2)): the bits of sqrt(1/2) are where the exponent steps.
  constexpr int32_t kRootOfHalf = 0x3f3504f3, kExponentOf24 = 24 << 23, kMantissa = 0x7fffff;
  const int32_t bits = bit_cast<int32_t>(static_cast<float>(static_cast<int32_t>((word >> 8) + 1u)));
  const int32_t above = bits - (kRootOfHalf + kExponentOf24);
  const float exponent = static_cast<float>(above >> 23);
  const float x = bit_cast<float>((above & kMantissa) + kRootOfHalf) - 1.0f;
  float q = -0.351214856f;  // -2 ln(1 + x) / x
  q = horner(q, x, 0.546782613f);
  q = horner(q, x, -0.674429595f);
  q = horner(q, x, 0.998487413f);
  q = horner(q, x, -1.99985015f);
  return sqrtf(rounded_sum(rounded_product(exponent, -1.3862944f), rounded_product(x, q)));
}

// A point on the unit circle: within an eighth of a turn of the positive first axis by the upper 24 bits of the word,
// mirrored by bit 1, with its coordinates exchanged by bit 0.
TORCHCLIP_HD void unit_vector(uint32_t word, float& first, float& second) {
  const float turn = static_cast<float>(static_cast<int32_t>(word) >> 8) * 0x1p-26f;
  const float z = rounded_product(turn, turn);
  const float sine = rounded_product(turn, horner(horner(79.8259888f, z, -41.3313179f), z, 6.28317642f));
  const float cosine = horner(horner(62.9630013f, z, -19.7276878f), z, 0.999990046f);
  const float mirrored = bit_cast<float>(bit_cast<uint32_t>(cosine) ^ ((word & 2u) << 30));
  const bool exchanged = (word & 1u) != 0;
  first = exchanged ? sine : mirrored;
  second = exchanged ? mirrored : sine;
}

}  // namespace torchclip
