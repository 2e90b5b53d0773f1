// The draws of a run of elements within one thread: a counter serves four elements, and is drawn once for those of them
// that the thread comes to one after the other.
#pragma once

#include <cuda_runtime.h>

#include "../normal.h"
#include "../philox.h"
#include "../pipeline.h"
#include "../tables.h"

namespace torchclip::cuda {

template <unsigned Stages>
class ThreadDraws {
 public:
  // `used`: of the stages that are compiled in, those that this step has. What is not drawn changes nothing.
  __device__ ThreadDraws(const Extras& extras, uint32_t used, int32_t parameter)
      : extras_(extras), used_(used), parameter_(static_cast<uint32_t>(parameter)) {}

  // Of element number `element` of the parameter.
  __device__ __forceinline__ Draws at(int64_t element) {
    Draws draws;
    if constexpr ((Stages & (kGradientDropout | kGradientNoise | kLRDropout)) != 0) {
      const int64_t quad = element / 4;
      const int lane = static_cast<int>(element % 4);
      if (quad != quad_) draw(quad);
      if (draws_for(kGradientDropout)) draws.keeps_gradient = keeps(pick(gradient_, lane), extras_.gradient_threshold);
      if (draws_for(kGradientNoise)) draws.normal = normal(lane);
      if (draws_for(kLRDropout)) draws.keeps_step = keeps(pick(step_, lane), extras_.lr_threshold);
    }
    return draws;
  }

 private:
  __device__ __forceinline__ bool draws_for(unsigned stage) const { return (Stages & used_ & stage) != 0; }
  __device__ __forceinline__ void draw(int64_t quad) {
    quad_ = quad;
    const auto words = [&](Stream stream) {
      return philox4x32(extras_.seed, draw_counter(extras_.step, parameter_, static_cast<uint64_t>(quad), stream));
    };
    if (draws_for(kGradientDropout)) gradient_ = words(kGradientDropoutStream);
    if (draws_for(kGradientNoise)) noise_ = words(kNoiseStream);
    if (draws_for(kLRDropout)) step_ = words(kLRDropoutStream);
  }
  // An array indexed at run time would lie in local memory.
  static __device__ __forceinline__ uint32_t pick(const Counter& counter, int lane) {
    const uint32_t low = lane == 0 ? counter.word[0] : counter.word[1];
    const uint32_t high = lane == 2 ? counter.word[2] : counter.word[3];
    return lane < 2 ? low : high;
  }
  __device__ __forceinline__ float normal(int lane) const {
    float first, second;
    unit_vector(lane < 2 ? noise_.word[1] : noise_.word[3], first, second);
    const float radius = normal_radius(lane < 2 ? noise_.word[0] : noise_.word[2]);
    return rounded_product(radius, lane % 2 == 0 ? first : second);
  }

  const Extras& extras_;
  uint32_t used_;
  uint32_t parameter_;
  int64_t quad_ = -1;
  Counter gradient_{}, noise_{}, step_{};
};

}  // namespace torchclip::cuda
