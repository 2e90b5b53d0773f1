// The 256 values of an 8-bit code, and which of them is the nearest: torchclip.Blockwise8bit has the equation.
#pragma once

#include <cstdint>

namespace torchclip::cpu {

struct DynamicMap {
  static constexpr int kDecades = 7;

  explicit DynamicMap(bool is_signed);

  alignas(64) float values[256];   // ascending
  alignas(64) float middles[256];  // between neighbours from 0 on; behind the last one infinite
  float last_middle;               // the last one, below 1
  int zero;                        // the code of 0
  // Within a decade middles are a step apart. Of x there, that of number trunc(slope x + offset) is the last one below
  // x or the one behind it; but for the last of all.
  struct Line {
    float begin;  // of the decade
    float slope, offset;
  };
  Line lines[kDecades];
  float largest_guess;
};

// The tables of one of both maps.
const DynamicMap& dynamic_map(bool is_signed);

}  // namespace torchclip::cpu
