#include "extensions.h"

namespace torchclip::cpu {

Extensions::Extensions(const Loops& loops, const Extras& extras, unsigned stages, uint32_t parameter, int64_t begin)
    : loops_(loops), extras_(extras), begin_(begin) {
  if ((stages & kGradientNoise) != 0) noise_.emplace(extras.seed, extras.step, parameter, kNoiseStream);
  if ((stages & kGradientDropout) != 0) gradients_.emplace(extras.seed, extras.step, parameter, kGradientDropoutStream);
  if ((stages & kLRDropout) != 0) steps_.emplace(extras.seed, extras.step, parameter, kLRDropoutStream);
}

void Extensions::prepare(const void* gradient, int64_t done, int64_t count, const Coefficients& coefficients,
                         void* out) const {
  alignas(64) uint32_t words[kPiece];
  alignas(64) float normals[kPiece];
  const int64_t begin = piece_begin(done), skipped = begin_ + done - begin;
  if (noise_.has_value()) {
    noise_->fill(begin, kPiece, words);
    fill_normals(words, kPiece, normals);
  }
  if (gradients_.has_value()) gradients_->fill(begin, kPiece, words);
  loops_.perturb(gradient, count, coefficients, words + skipped, extras_.gradient_threshold, normals + skipped, out);
}

void Extensions::draw_steps(int64_t done, int64_t count, uint32_t* words) const {
  const int64_t begin = piece_begin(done), skipped = begin_ + done - begin;
  if (skipped == 0) return steps_->fill(begin, kPiece, words);
  alignas(64) uint32_t piece[kPiece];
  steps_->fill(begin, kPiece, piece);
  memcpy(words, piece + skipped, static_cast<size_t>(count) * sizeof(uint32_t));
}

}  // namespace torchclip::cpu
