#include "dynamic_map.h"

#include <algorithm>
#include <limits>

namespace torchclip::cpu {

// 0, 1, and in each of seven decades the middles of equal parts: twice as many as in the decade below. In double, as in
// torchclip/backends/reference/codecs.py.
DynamicMap::DynamicMap(bool is_signed) : zero(is_signed ? 127 : 0) {
  // The ends of decades; products of 0.1 would be other numbers.
  constexpr double kEnds[kDecades] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0};
  // A guess may be too high by this part of a step, and never too low: see encode_block() in codec_loops.cpp.
  constexpr double kSlack = 1e-3;
  double sorted[256] = {0.0, 1.0};
  int count = 2, below = 0;
  for (int decade = 0; decade < kDecades; ++decade) {
    const int parts = 1 << (is_signed ? decade : decade + 1);
    for (int part = 0; part < parts; ++part) {
      const double middle = kEnds[decade] * (0.1 + 0.9 * (part + 0.5) / parts);
      sorted[count++] = middle;
      if (is_signed) sorted[count++] = -middle;
    }
    lines[decade] = {static_cast<float>(0.1 * kEnds[decade]), static_cast<float>(parts / (0.9 * kEnds[decade])),
                     static_cast<float>(below - parts / 9.0 + kSlack)};
    below += parts;
  }
  largest_guess = static_cast<float>(below - 1);
  std::sort(sorted, sorted + count);
  for (int code = 0; code < 256; ++code) values[code] = static_cast<float>(sorted[code]);
  std::fill(middles, middles + 256, std::numeric_limits<float>::infinity());
  for (int i = zero; i < 255; ++i) middles[i - zero] = static_cast<float>((sorted[i] + sorted[i + 1]) / 2);
  last_middle = middles[254 - zero];
}

const DynamicMap& dynamic_map(bool is_signed) {
  static const DynamicMap kSigned(true), kUnsigned(false);
  return is_signed ? kSigned : kUnsigned;
}

}  // namespace torchclip::cpu
