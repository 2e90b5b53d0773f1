// The draws of neighbouring elements within one thread: a counter serves four elements.
#pragma once

#include <cuda_runtime.h>

#include "../codecs.h"
#include "../normal.h"
#include "../philox.h"
#include "../pipeline.h"
#include "../step/device_tables.h"

namespace torchclip::cuda {

constexpr unsigned kDrawnStages = kGradientDropout | kGradientNoise | kLRDropout;
template <unsigned Stages>
constexpr bool kDraws = (Stages & kDrawnStages) != 0;

// DrawPlace::of(), on a device.
__device__ __forceinline__ int64_t element_in_whole(const DrawPlace& place, int64_t element) {
  if (place.inner == 0) return place.offset + element;
  return place.offset + element / place.inner * place.outer + element % place.inner;
}

// Whether `kCount` neighbours from `first` on, and from every kCount-th behind it, are neighbours in the whole tensor.
template <int kCount>
__device__ __forceinline__ bool draws_together(const DrawPlace& place, int64_t first) {
  return place.inner == 0 || (place.inner % kCount == 0 && first % kCount == 0);
}

// For `kCount` neighbours, which draws_together() says to be such in the whole tensor. To be made once the elements are
// on their way from memory, which the generator then covers.
template <unsigned Stages, int kCount>
class ThreadDraws {
  // Counters that neighbours can reach, wherever the first of them stands among the four of its own.
  static constexpr int kQuads = (kCount + 3 + 3) / 4;

 public:
  // The step is the one that the first finish has counted. Of the stages that are compiled in, `arguments` says which
  // this step has: what is not drawn changes nothing.
  __device__ __forceinline__ ThreadDraws(const PassArguments& arguments, const DrawPlace& place, int64_t local) {
    if constexpr ((Stages & kDrawnStages) != 0) {
      if ((arguments.stages & kDrawnStages) == 0) return;
      const uint32_t step = static_cast<uint32_t>(whole_number(arguments.numbers->step));
      const int64_t element = element_in_whole(place, local);
      const int skipped = static_cast<int>(element % 4), quads = (skipped + kCount + 3) / 4;
#pragma unroll 1  // ten rounds of the generator are long code
      for (int quad = 0; quad < quads; ++quad)
        draw(arguments, draw_counter(step, place.number, element / 4 + quad, kNoiseStream));
      if (quads < kQuads) make_room();
      keeps_gradient_ >>= skipped;
      keeps_step_ >>= skipped;
      shift_normals((skipped & 1) != 0, 1);
      shift_normals((skipped & 2) != 0, 2);
    }
  }

  __device__ __forceinline__ Draws at(int lane) const {
    if constexpr ((Stages & kDrawnStages) == 0) return Draws{};
    return {(keeps_gradient_ >> lane & 1u) != 0, normals_[lane], (keeps_step_ >> lane & 1u) != 0};
  }

 private:
  // The last word of a counter is that of kNoiseStream plus the stream.
  static __device__ __forceinline__ Counter words(const PassArguments& arguments, Counter counter, Stream stream) {
    counter.word[3] += stream - kNoiseStream;
    return philox4x32(arguments.extras.seed, counter);
  }

  // The four elements of a counter come last, where make_room has put the others before them.
  __device__ __forceinline__ void draw(const PassArguments& arguments, const Counter& counter) {
    make_room();
    if ((arguments.stages & kGradientDropout) != 0)
      keeps_gradient_ &= kept(words(arguments, counter, kGradientDropoutStream), arguments.extras.gradient_threshold);
    if ((arguments.stages & kLRDropout) != 0)
      keeps_step_ &= kept(words(arguments, counter, kLRDropoutStream), arguments.extras.lr_threshold);
    if ((arguments.stages & kGradientNoise) == 0) return;
    const Counter noise = words(arguments, counter, kNoiseStream);
#pragma unroll
    for (int pair = 0; pair < 4; pair += 2) {
      float first, second;
      unit_vector(noise.word[pair + 1], first, second);
      const float radius = normal_radius(noise.word[pair]);
      normals_[4 * (kQuads - 1) + pair] = rounded_product(radius, first);
      normals_[4 * (kQuads - 1) + pair + 1] = rounded_product(radius, second);
    }
  }

  // The bits of the last four elements; all others are set.
  static __device__ __forceinline__ uint32_t kept(const Counter& counter, uint32_t threshold) {
    uint32_t dropped = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) dropped |= (keeps(counter.word[i], threshold) ? 0u : 1u) << i;
    return ~(dropped << 4 * (kQuads - 1));
  }

  __device__ __forceinline__ void make_room() {
    keeps_gradient_ = keeps_gradient_ >> 4 | 0xf0000000u;
    keeps_step_ = keeps_step_ >> 4 | 0xf0000000u;
    shift_normals(true, 4);
  }

  // By selects: an array indexed at run time would lie in local memory.
  __device__ __forceinline__ void shift_normals(bool shifts, int distance) {
#pragma unroll
    for (int i = 0; i < 4 * kQuads; ++i)
      if (i + distance < 4 * kQuads) normals_[i] = shifts ? normals_[i + distance] : normals_[i];
  }

  uint32_t keeps_gradient_ = ~0u, keeps_step_ = ~0u;  // a bit for each element
  float normals_[4 * kQuads] = {};
};

// The words that two operands of `kCount` neighbours are rounded by: see kRoundingStream. Of several the first stands
// at a multiple of 4 of the whole tensor, as rounds_together() says.
template <int kCount>
__device__ __forceinline__ void draw_rounding(const PassArguments& arguments, const DrawPlace& place, int64_t local,
                                              int stream, uint32_t (&words)[kCount]) {
  const int64_t element = element_in_whole(place, local);
  const uint32_t step = static_cast<uint32_t>(whole_number(arguments.numbers->step));
  const int first = kCount == 1 ? static_cast<int>(element % 4) : 0;
#pragma unroll 1  // ten rounds of the generator are long code
  for (int quad = 0; quad < (kCount + 3) / 4; ++quad) {
    const Counter drawn =
        philox4x32(arguments.extras.seed, draw_counter(step, place.number, static_cast<uint64_t>(element) / 4 + quad,
                                                       static_cast<Stream>(kRoundingStream + stream)));
    // By selects: an array indexed at run time would lie in local memory.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kCount == 1) {
        words[0] = i == first ? drawn.word[i] : words[0];
      } else {
#pragma unroll
        for (int of = 0; of < kCount / 4; ++of) words[4 * of + i] = of == quad ? drawn.word[i] : words[4 * of + i];
      }
    }
  }
}

}  // namespace torchclip::cuda
