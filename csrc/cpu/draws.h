// Runs of random words and normal numbers, for the loops over elements to read from the first-level cache.
#pragma once

#include <cstdint>

#include "../philox.h"

namespace torchclip::cpu {

// Words are drawn for whole multiples of this many elements.
constexpr int64_t kDrawGrain = 128;

// The words of one kind for one parameter in one step. Of the four words of their counters one runs, so that half of
// the first two rounds is the same for all of them; that and the keys are worked out once.
class WordStream {
 public:
  // `step` counts from 1; `parameter` is the position among all parameters.
  WordStream(uint64_t seed, uint32_t step, uint32_t parameter, Stream stream);

  // words: [count], those of the elements from `element` on; both numbers are multiples of kDrawGrain.
  void fill(int64_t element, int64_t count, uint32_t* words) const;

  // A number in each lane of a vector.
  struct alignas(64) Lanes {
    uint64_t lane[8];
  };
  // Of the first two rounds what is added to the running part, and the keys of all rounds.
  struct Constants {
    Lanes first, second[3];
    Lanes key0[kPhiloxRounds], key1[kPhiloxRounds];
  };

  const Constants& constants() const { return constants_; }

 private:
  uint64_t seed_;
  uint32_t step_, parameter_;
  Stream stream_;
  Constants constants_;
};

// normals: [count], from words of as many elements; `count` is a multiple of kDrawGrain.
void fill_normals(const uint32_t* words, int64_t count, float* normals);

}  // namespace torchclip::cpu
