// How the numbers lie that processes add up in one exchange: alike on the host, on devices, and in kernels/share.py.
#pragma once

#include <cstdint>

#include "tables.h"

namespace torchclip {

// What every exchange ends in, by its place there: overflows of AMP's scale, norms that are not finite, parameters with
// a gradient, the loss, and the three that they agree by: see torchclip/distributed/agreed.py.
enum CommonNumber : int { kOverflows, kLost, kGradients, kLoss, kAgreed, kCommonNumbers = kAgreed + 3 };

// The zeros that thresholds go by.
struct ZeroCount {
  double zeros = 0;
  double elements = 0;  // among which they are
};

// The sums of each cell, those of each place of a row, the zeros of each cell of them, and the common numbers.
struct ExchangeLayout {
  int64_t cells = 0;
  int64_t places = 0;
  int64_t zero_cells = 0;

  // Where they begin among the numbers.
  TORCHCLIP_HD UnitSum* sums(double* numbers) const { return reinterpret_cast<UnitSum*>(numbers); }
  TORCHCLIP_HD Partial* rows(double* numbers) const { return reinterpret_cast<Partial*>(sums(numbers) + cells); }
  TORCHCLIP_HD ZeroCount* zeros(double* numbers) const { return reinterpret_cast<ZeroCount*>(rows(numbers) + places); }
  TORCHCLIP_HD double* common(double* numbers) const { return reinterpret_cast<double*>(zeros(numbers) + zero_cells); }

  TORCHCLIP_HD constexpr int64_t count() const {
    return kIn<UnitSum> * cells + kIn<Partial> * places + kIn<ZeroCount> * zero_cells + kCommonNumbers;
  }
  template <class T>
  static constexpr int64_t kIn = sizeof(T) / sizeof(double);
};

}  // namespace torchclip
