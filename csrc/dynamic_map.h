// The 256 values of an 8-bit code, and which of them is the nearest: torchclip.Blockwise8bit has the equation.
#pragma once

#include <limits>

#include "scalar_ops.h"

namespace torchclip {

// 0, 1, and in each of seven decades the middles of equal parts: twice as many as in the decade below. In double, as in
// torchclip/backends/reference/codecs.py.
struct DynamicMap {
  static constexpr int kDecades = 7, kCodes = 256;
  // The ends of decades; products of 0.1 would be other numbers.
  static constexpr double kEnds[kDecades] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0};
  static constexpr int parts_of(int decade, bool is_signed) { return 1 << (is_signed ? decade : decade + 1); }

  constexpr explicit DynamicMap(bool is_signed) : zero(is_signed ? 127 : 0) {
    // A guess may be too high by this part of a step, and never too low: see nearest_code().
    constexpr double kSlack = 1e-3;
    double ascending[kCodes] = {};  // from 0 on
    int above = 1;
    for (int decade = 0; decade < kDecades; ++decade) {
      const int parts = parts_of(decade, is_signed), below = above - 1;
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

// The code of the nearest value, of two equally near ones the lower; the last one for what is NaN by the absmax, as in
// torch.bucketize. middles: [256], the map's.
template <bool is_signed>
TORCHCLIP_HD uint8_t nearest_code(const float* middles, float value, float absmax) {
  constexpr DynamicMap kOwn = kMap<is_signed>;
  const float scaled = value / (absmax > 0.0f ? absmax : 1.0f), size = magnitude(scaled);
  float slope = kOwn.lines[0].slope, offset = kOwn.lines[0].offset;
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int decade = 1; decade < DynamicMap::kDecades; ++decade) {
    const bool reaches = size >= kOwn.lines[decade].begin;
    slope = reaches ? kOwn.lines[decade].slope : slope;
    offset = reaches ? kOwn.lines[decade].offset : offset;
  }
  const float guess = size * slope + offset, above_zero = guess > 0.0f ? guess : 0.0f;
  const int place = static_cast<int>(above_zero < kOwn.largest_guess ? above_zero : kOwn.largest_guess);
  const float middle = middles[place];
  const int below = place + (size > middle ? 1 : 0) + (size > kOwn.last_middle ? 1 : 0);
  int code = below;
  if constexpr (is_signed) {  // the neighbours of 0 lie alike on both sides, but that there is no -1
    code = scaled < 0.0f ? kOwn.zero - place - (size >= middle ? 1 : 0) : kOwn.zero + below;
  } else {
    code = value > 0.0f ? (below > 1 ? below : 1) : 0;  // what is above zero divides, and stays above
  }
  return static_cast<uint8_t>(scaled == scaled ? code : DynamicMap::kCodes - 1);
}

}  // namespace torchclip
