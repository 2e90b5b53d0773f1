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

}  // namespace torchclip
