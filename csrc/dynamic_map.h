// The 256 values of an 8-bit code, and which of them is the nearest: torchclip.Blockwise8bit has the equation.
#pragma once

#include <limits>

#include "scalar_ops.h"

namespace torchclip {

// 0, 1, and in each of seven decades the middles of equal parts: twice as many as in the decade below. In double, as in
// torchclip/backends/reference/codecs.py.
struct DynamicMap {
  static constexpr int kDecades = 7, kCodes = 256;

  constexpr explicit DynamicMap(bool is_signed) : zero(is_signed ? 127 : 0) {
    // The ends of decades; products of 0.1 would be other numbers.
    constexpr double kEnds[kDecades] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0};
    // A guess may be too high by this part of a step, and never too low: see encode_block() of the CPU, and
    // nearest_code() of CUDA.
    constexpr double kSlack = 1e-3;
    double ascending[kCodes] = {};  // from 0 on
    int above = 1;
    for (int decade = 0; decade < kDecades; ++decade) {
      const int parts = 1 << (is_signed ? decade : decade + 1), below = above - 1;
      for (int part = 0; part < parts; ++part) ascending[above++] = kEnds[decade] * (0.1 + 0.9 * (part + 0.5) / parts);
      lines[decade] = {static_cast<float>(0.1 * kEnds[decade]), static_cast<float>(parts / (0.9 * kEnds[decade])),
                       static_cast<float>(below - parts / 9.0 + kSlack)};
    }
    largest_guess = static_cast<float>(above - 2);
    ascending[above] = 1.0;
    for (int i = 0; i <= above; ++i) values[zero + i] = static_cast<float>(ascending[i]);
    for (int i = 1; i <= zero; ++i) values[zero - i] = static_cast<float>(-ascending[i]);
    for (int i = 0; i < kCodes; ++i)
      middles[i] = i < above ? static_cast<float>((ascending[i] + ascending[i + 1]) / 2)
                             : std::numeric_limits<float>::infinity();
    last_middle = middles[above - 1];
  }

  alignas(64) float values[kCodes] = {};   // ascending
  alignas(64) float middles[kCodes] = {};  // between neighbours from 0 on; behind the last one infinite
  float last_middle = 0;                   // the last one, below 1
  int zero;                                // the code of 0
  // Within a decade middles are a step apart. Of x there, that of number trunc(slope x + offset) is the last one below
  // x or the one behind it; but for the last of all.
  struct Line {
    float begin = 0;  // of the decade
    float slope = 0, offset = 0;
  };
  Line lines[kDecades] = {};
  float largest_guess = 0;
};

// Those of values that may be negative, and of others: kMap<is_signed>.
template <bool is_signed>
inline constexpr DynamicMap kMap{is_signed};

}  // namespace torchclip
