// From a measured norm to a factor. Host and device: on a GPU the norm pass's last block runs these.
#pragma once

#include "scalar_ops.h"

namespace torchclip {

// Added to the norm by torch.nn.utils.clip_grad_norm_.
constexpr double kHardClipEps = 1e-6;

// min(1, max_norm / (norm + eps)), or 1 / (1 + norm / max_norm). A NaN norm gives NaN, as in torch.
TORCHCLIP_HD double clip_factor(double norm, double max_norm, bool smooth) {
  if (smooth) return norm == 0 ? 1.0 : 1.0 / (1.0 + norm / max_norm);
  return at_most(max_norm / (norm + kHardClipEps), 1.0);
}

// h(norm) / lr of Zhang et al. 2020 (arXiv 2010.02519): the smooth form of the authors' code, 1 / (1 + lr norm /
// gamma), or Algorithm 1's min(1, gamma / (lr norm)). A norm of 0 gives 1.
TORCHCLIP_HD double clipped_step_factor(double norm, double lr, double gamma, bool smooth) {
  const double ratio = lr * norm / gamma;
  if (smooth) return 1.0 / (1.0 + ratio);
  return ratio <= 1.0 ? 1.0 : 1.0 / ratio;
}

// The factor that brings a norm down to `bound`, as clip_grad_norm_ does; one below it is left alone, and a NaN too.
TORCHCLIP_HD double factor_to(double norm, double bound) { return norm > bound ? bound / (norm + kHardClipEps) : 1.0; }

// The least norm of a unit's gradient that AdaptiveGradientClip divides by.
constexpr double kUnitNormFloor = 1e-6;

// Adaptive gradient clipping of one unit (Brock et al. 2021, arXiv 2102.06171, equation (3)):
// min(1, clipping max(|W|, eps) / max(|G|, 1e-6)). A NaN norm gives NaN.
TORCHCLIP_HD double unit_clip_factor(double gradient_norm, double weight_norm, double clipping, double eps) {
  return at_most(clipping * at_least(weight_norm, eps) / at_least(gradient_norm, kUnitNormFloor), 1.0);
}

// Whether a policy remembers a norm. One of exactly 0 is that of a step without gradients, as
// torch.distributed.checkpoint takes it to have state made, and says nothing of later ones.
TORCHCLIP_HD bool is_remembered(double norm) { return is_finite(norm) && norm != 0; }

// What ZClip remembers (Kumar et al. 2025, arXiv 2504.02507).
struct NormAverages {
  double count = 0;
  double mean = 0;
  double variance = 0;
};

struct ZClipSettings {
  double alpha;      // in [0, 1)
  double threshold;  // above 0
  double warmup;     // steps, at least 1
  double eps;        // at least 0
  double max_norm;   // at least 0
};

// The bound on a norm, and the averages after it. During the warm-up they are the mean and variance of all norms so
// far, by Welford's recurrence. A norm that is not remembered moves nothing.
TORCHCLIP_HD double z_clip_bound(double norm, const ZClipSettings& settings, NormAverages& averages) {
  const bool counts = is_remembered(norm);
  if (averages.count < settings.warmup) {
    if (counts) {
      const double count = averages.count += 1;
      const double delta = norm - averages.mean;
      averages.mean += delta / count;
      averages.variance = (averages.variance * (count - 1) + delta * (norm - averages.mean)) / count;
    }
    return settings.max_norm;
  }
  const double deviation = sqrt(averages.variance);
  const double z = (norm - averages.mean) / (deviation + settings.eps);
  double bound = norm;
  if (z > settings.threshold) bound = averages.mean + settings.threshold * settings.threshold / z * deviation;
  bound = at_most(bound, settings.max_norm);
  if (counts) {
    averages.count += 1;
    averages.mean = settings.alpha * averages.mean + (1.0 - settings.alpha) * bound;
    averages.variance = settings.alpha * averages.variance + (1.0 - settings.alpha) * square(bound - averages.mean);
  }
  return bound;
}

struct TensorBoundSettings {
  double absolute;  // at least 0
  double relative;  // above 0
  double beta;      // in [0, 1)
  double warmup;    // steps
};

// AdaGC (Wang et al. 2025, arXiv 2502.11034, Algorithm 1): the factor of one tensor, and its bound after the step of
// that number, from 1. `joint`: the norm of all. A bound of 0 is none yet: the tensor is in its first step. A norm of 0
// moves nothing, nor does one that is not finite.
TORCHCLIP_HD double tensor_bound_factor(double norm, double joint, double step, const TensorBoundSettings& settings,
                                        double& bound) {
  if (norm == 0) return 1.0;
  const bool early = step < settings.warmup || bound == 0;
  const double factor = at_most(early ? settings.absolute / joint : settings.relative * bound / norm, 1.0);
  const double left = factor * norm;
  if (!is_finite(left)) return factor;
  const double smaller = bound == 0 ? left : at_most(bound, left);
  bound = early ? smaller : settings.beta * bound + (1.0 - settings.beta) * left;
  return factor;
}

// SkipSpikes: whether a step is too few values from the beginning to be judged; `held`: of those before it.
TORCHCLIP_HD bool is_unjudged(double held, double window) {
  const double half = static_cast<double>(static_cast<int64_t>(window) / 2);
  return held < 2 || held + 1 < half;
}

// AdaLoss (Wu, Xie, Du, Ward, AAAI 2022, arXiv 2109.08282, Algorithm 1): b^2 after a loss. One that is not finite
// leaves it as it was.
TORCHCLIP_HD double add_loss(double b_squared, double loss, double alpha, double c) {
  const double gap = fabs(loss - c);
  return is_finite(gap) ? b_squared + alpha * gap : b_squared;
}

// The step of Polyak's rule (SPS: Loizou et al. 2021, arXiv 2002.10542; ALI-G: Berrada et al. 2020, arXiv 1906.05661):
// max(loss - f_star, 0) / (c square + eps), and with a growth at most that times the step before. 0 for a loss that is
// not finite: nothing is learned from such a batch.
TORCHCLIP_HD double polyak_step(double loss, double square, double f_star, double c, double eps, double growth,
                                double before) {
  if (!is_finite(loss)) return 0.0;
  const double step = at_least(loss - f_star, 0.0) / (c * square + eps);
  return growth > 0 ? at_most(step, growth * before) : step;
}

// What it makes of lr, which is the largest step.
TORCHCLIP_HD double polyak_factor(double step, double lr) { return lr == 0 ? 1.0 : at_most(step / lr, 1.0); }

// The weight of the parameters in WeightEMA, 1 - decay: at least 1 - (1 + step) / (10 + step) during the warm-up.
TORCHCLIP_HD double average_weight(double weight, bool warmup, double step) {
  return warmup ? at_least(weight, 9.0 / (10.0 + step)) : weight;
}

}  // namespace torchclip
