// What a step does around the rule with a piece of elements: draws and perturbs its gradients, drops steps, ends a
// round of Lookahead.
#pragma once

#include <optional>

#include "draws.h"
#include "passes.h"

namespace torchclip::cpu {

static_assert(kPiece % kDrawGrain == 0 && kNormBlock % kPiece == 0);

// For one run of elements of a tensor.
class Extensions {
 public:
  // `stages`: of the bucket; `parameter`: its number in draws; `begin`: number of the first element.
  Extensions(const Loops& loops, const Extras& extras, unsigned stages, uint32_t parameter, int64_t begin);

  // Elements from `done` on in the run that belong to one piece.
  int64_t piece_count(int64_t done, int64_t count) const {
    const int64_t rest = kPiece - (begin_ + done) % kPiece;
    return rest < count - done ? rest : count - done;
  }
  bool drops_steps() const { return steps_.has_value(); }
  const Extras& extras() const { return extras_; }

  // The prepared gradients of the `count` elements from `done` on, all in one piece.
  void prepare(const void* gradient, int64_t done, int64_t count, const Coefficients& coefficients, void* out) const;
  // The words by which their steps are dropped: [count].
  void draw_steps(int64_t done, int64_t count, uint32_t* words) const;
  // Lookahead, when it ends a round, or WeightEMA.
  void synchronise(void* slow, int64_t count, void* parameter) const {
    if (!extras_.synchronises) return;
    (extras_.averages ? loops_.average : loops_.synchronise)(slow, count, extras_.lookahead_alpha, parameter);
  }

 private:
  // The draws of a piece do not depend on where a run begins in it.
  int64_t piece_begin(int64_t done) const { return (begin_ + done) / kPiece * kPiece; }

  const Loops& loops_;
  const Extras& extras_;
  int64_t begin_;
  std::optional<WordStream> noise_, gradients_, steps_;
};

}  // namespace torchclip::cpu
