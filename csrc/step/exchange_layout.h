// How the numbers lie that processes add up in one exchange: alike on the host, on devices, and in kernels/share.py.
#pragma once

#include <cstdint>

#include "tables.h"

namespace torchclip {

// What every exchange ends in, by its place there: overflows of AMP's scale, norms that are not finite, parameters with
// a gradient, the loss, and the three that they agree by: see torchclip/distributed/agreed.py.
enum CommonNumber : int { kOverflows, kLost, kGradients, kLoss, kAgreed, kCommonNumbers = kAgreed + 3 };

// A Partial for each cell; two sums for each place of a row; for each cell of zeros how many they are, and among how
// many elements; and the common numbers.
struct ExchangeLayout {
  int64_t cells = 0;
  int64_t places = 0;
  int64_t zero_cells = 0;

  TORCHCLIP_HD constexpr int64_t first_place() const { return kOfCell * cells; }
  TORCHCLIP_HD constexpr int64_t first_zeros() const { return first_place() + 2 * places; }
  TORCHCLIP_HD constexpr int64_t common() const { return first_zeros() + 2 * zero_cells; }
  TORCHCLIP_HD constexpr int64_t count() const { return common() + kCommonNumbers; }

  static constexpr int64_t kOfCell = sizeof(Partial) / sizeof(double);
};

}  // namespace torchclip
