// Compiled by test_cuda_headers.py: every rule as a kernel, so that the headers stay what a .cu file can include.
#include "normal.h"
#include "philox.h"
#include "policies.h"
#include "rules/registry.h"
#include "step/modifiers.h"
#include "step/tables.h"

namespace torchclip {

constexpr unsigned kAllStages = kValueClip | kGradientDropout | kGradientNoise | kCoupledDecay | kLRDropout;

__device__ Draws draws_of(uint64_t seed, int64_t element, uint32_t threshold) {
  const uint64_t quad = static_cast<uint64_t>(element) / 4;
  const int lane = static_cast<int>(element % 4);
  const Counter noise = philox4x32(seed, draw_counter(1, 0, quad, kNoiseStream));
  const Counter gradient = philox4x32(seed, draw_counter(1, 0, quad, kGradientDropoutStream));
  const Counter step = philox4x32(seed, draw_counter(1, 0, quad, kLRDropoutStream));
  float cosine, sine;
  unit_vector(noise.word[lane / 2 * 2 + 1], cosine, sine);
  const float normal = rounded_product(normal_radius(noise.word[lane / 2 * 2]), lane % 2 == 0 ? cosine : sine);
  return {keeps(gradient.word[lane], threshold), normal, keeps(step.word[lane], threshold)};
}

template <class Functor, unsigned Slots, class T, class S>
__global__ void update_kernel(T* parameter, const T* gradient, S* state0, S* state1, S* state2, int64_t count,
                              PipelineCoefficients<ComputeType<T>> pipeline,
                              typename Functor::template Coefficients<ComputeType<T>> rule, uint64_t seed,
                              uint32_t threshold, ComputeType<T>* slow) {
  using C = ComputeType<T>;
  S* const states[kMaxSlots] = {state0, state1, state2};
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    C state[Functor::kSlots] = {};
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((Slots >> slot & 1u) != 0) state[slot] = load(states[slot][i]);
    const Draws draws = draws_of(seed, i, threshold);
    const T stored = store<T>(
        update<Functor, Slots, kAllStages>(pipeline, rule, load(parameter[i]), load(gradient[i]), draws, state));
    slow[i] = synchronise(slow[i], load(stored), C(0.5));
    parameter[i] = store<T>(slow[i]);
    for (int slot = 0; slot < Functor::kSlots; ++slot)
      if ((Slots >> slot & 1u) != 0) states[slot][i] = store<S>(state[slot]);
  }
}

#define TORCHCLIP_INSTANTIATE(Functor, Slots, T, S)                                                                   \
  template __global__ void update_kernel<Functor, Slots, T, S>(                                                       \
      T*, const T*, S*, S*, S*, int64_t, PipelineCoefficients<ComputeType<T>>, Functor::Coefficients<ComputeType<T>>, \
      uint64_t, uint32_t, ComputeType<T>*);
#define TORCHCLIP_INSTANTIATE_DTYPES(Functor, Slots)        \
  TORCHCLIP_INSTANTIATE(Functor, Slots, float, float)       \
  TORCHCLIP_INSTANTIATE(Functor, Slots, double, double)     \
  TORCHCLIP_INSTANTIATE(Functor, Slots, BFloat16, BFloat16) \
  TORCHCLIP_INSTANTIATE(Functor, Slots, Float16, float)

TORCHCLIP_INSTANTIATE_DTYPES(Momentum, 0)
TORCHCLIP_INSTANTIATE_DTYPES(Momentum, 1)
TORCHCLIP_INSTANTIATE_DTYPES(Momentum, 2)
TORCHCLIP_INSTANTIATE_DTYPES(Momentum, 3)
TORCHCLIP_INSTANTIATE_DTYPES(SecondMoment, 3)
TORCHCLIP_INSTANTIATE_DTYPES(SecondMoment, 7)
TORCHCLIP_INSTANTIATE_DTYPES(RootMeanSquare, 1)
TORCHCLIP_INSTANTIATE_DTYPES(RootMeanSquare, 7)
TORCHCLIP_INSTANTIATE_DTYPES(SoftThreshold, 1)
TORCHCLIP_INSTANTIATE_DTYPES(SoftThreshold, 7)
TORCHCLIP_INSTANTIATE_DTYPES(Lion, 1)

// Coefficients, policies and draws run on the device too.
__global__ void host_device_functions(Sgd::Hyperparameters sgd, MixClip::Hyperparameters mix_clip,
                                      NormalizedSgd::Hyperparameters normalized, Adam::Hyperparameters adam,
                                      NAdam::Hyperparameters nadam, RAdam::Hyperparameters radam,
                                      RMSprop::Hyperparameters rmsprop, Adagrad::Hyperparameters adagrad,
                                      AdaGradNorm::Hyperparameters adagrad_norm, Grda::Hyperparameters grda,
                                      ZClipSettings z_clip, double norm, uint64_t seed, double* out, uint32_t* drawn) {
  double scalars[kMaxScalars] = {};
  const DirectionNorms norms{norm, norm};
  out[0] = Sgd::coefficients(sgd, scalars, false, norms).momentum_step;
  out[1] = MixClip::coefficients(mix_clip, scalars, false, norms).momentum_step;
  out[2] = NormalizedSgd::coefficients(normalized, scalars, false, norms).momentum_step;
  out[3] = Adam::coefficients(adam, scalars, false, norms).momentum_step;
  out[4] = Grda::coefficients(grda, scalars, false, norms).threshold;
  out[5] = clip_factor(norm, 1.0, false);
  out[6] = NAdam::coefficients(nadam, scalars, false, norms).momentum_step;
  out[7] = RAdam::coefficients(radam, scalars, false, norms).momentum_step;
  out[8] = RMSprop::coefficients(rmsprop, scalars, false, norms).step;
  out[9] = Adagrad::coefficients(adagrad, scalars, false, norms).step;
  out[10] = AdaGradNorm::coefficients(adagrad_norm, scalars, false, norms).momentum_step;
  NormAverages averages;
  out[11] = factor_to(norm, z_clip_bound(norm, z_clip, averages));
  out[12] = unit_clip_factor(norm, norm, 0.01, 1e-3);
  out[13] = add_loss(1.0, norm, 1.0, 0.0);
  drawn[0] = philox4x32(seed, Counter{{0, 0, 0, 0}}).word[0];
}

}  // namespace torchclip
