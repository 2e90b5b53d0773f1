// Options applied around an update rule: clip policy, step size and extensions. The numbering of the enumerations is
// that of torchclip/backends/codes.py.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "../scalar_ops.h"

namespace torchclip {

// Over which elements a norm is taken. A row is one of the leading dimension.
enum class Scope : int { kOptimizer, kGroup, kTensor, kRow };

// What is done to the raw gradients before the rule sees them.
enum class ClipKind : int { kNone, kNorm, kValue, kUnit, kPercentile, kZScore, kTensorBound };
enum class NonFinite : int { kPropagate, kSkip, kError };
enum class StepSizeKind : int { kNone, kLoss, kSqrt, kPolyak };

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

// Every field is a number, so that Python can name it.
struct Modifiers {
#define TORCHCLIP_MODIFIER(name, value) double name = value
#include "modifier_fields.h"
#undef TORCHCLIP_MODIFIER

  // False when there is no field of that name.
  bool set(const std::string& field, double number);

  TORCHCLIP_HD ClipKind clip_kind() const { return static_cast<ClipKind>(clip); }
  TORCHCLIP_HD Scope scope() const { return static_cast<Scope>(clip_scope); }
  TORCHCLIP_HD NonFinite on_nonfinite() const { return static_cast<NonFinite>(nonfinite); }
  TORCHCLIP_HD StepSizeKind step_size_kind() const { return static_cast<StepSizeKind>(step_size); }
  // Whether the joint norm of all gradients decides about more than a clip factor.
  TORCHCLIP_HD bool takes_joint_norm() const {
    return skip_norm != 0 || step_size_kind() == StepSizeKind::kPolyak || clip_kind() == ClipKind::kTensorBound;
  }
  TORCHCLIP_HD bool measures() const {
    return (clip_kind() != ClipKind::kNone && clip_kind() != ClipKind::kValue) || takes_joint_norm();
  }
  TORCHCLIP_HD bool finds_spikes() const { return skip_norm != 0 || skip_loss != 0; }
  // Whether a step that could be taken may be skipped, but for AMP's sake.
  TORCHCLIP_HD bool may_skip() const { return finds_spikes() || on_nonfinite() != NonFinite::kPropagate; }
  TORCHCLIP_HD bool takes_loss() const {
    return skip_loss != 0 || step_size_kind() == StepSizeKind::kLoss || step_size_kind() == StepSizeKind::kPolyak;
  }
  TORCHCLIP_HD bool draws() const { return gradient_noise != 0 || gradient_dropout != 0 || lr_dropout != 0; }
  TORCHCLIP_HD bool counts_steps() const {
    return draws() || lookahead_k != 0 || step_size_kind() == StepSizeKind::kSqrt;
  }
};

// How the gradients of one param group are clipped, by norm, where groups have policies of their own. The numbers of
// Modifiers are not looked at then, but for `nonfinite`, the strictest of all groups'.
struct GroupClip {
  double limit = kUnlimited;  // max_norm, at least 0
  int32_t unit = -1;          // the first of the groups whose gradients are in the same norm; -1: no norm is taken
  int32_t smooth = 0;         // 0 or 1
  int32_t nonfinite = 0;      // NonFinite

  TORCHCLIP_HD bool is_measured() const { return unit >= 0; }
  bool operator==(const GroupClip&) const = default;
};

}  // namespace torchclip
