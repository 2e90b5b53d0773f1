#include "modifiers.h"

namespace torchclip {
namespace {

struct Field {
  const char* name;
  double Modifiers::* number;
};

#define TORCHCLIP_FIELD(name) \
  Field { #name, &Modifiers::name }
constexpr Field kFields[] = {TORCHCLIP_FIELD(clip),
                             TORCHCLIP_FIELD(clip_scope),
                             TORCHCLIP_FIELD(nonfinite),
                             TORCHCLIP_FIELD(limit),
                             TORCHCLIP_FIELD(smooth),
                             TORCHCLIP_FIELD(unit_eps),
                             TORCHCLIP_FIELD(percentile),
                             TORCHCLIP_FIELD(window),
                             TORCHCLIP_FIELD(z_alpha),
                             TORCHCLIP_FIELD(z_threshold),
                             TORCHCLIP_FIELD(z_warmup),
                             TORCHCLIP_FIELD(z_eps),
                             TORCHCLIP_FIELD(step_size),
                             TORCHCLIP_FIELD(b0),
                             TORCHCLIP_FIELD(alpha),
                             TORCHCLIP_FIELD(c),
                             TORCHCLIP_FIELD(gradient_noise),
                             TORCHCLIP_FIELD(noise_eta),
                             TORCHCLIP_FIELD(noise_gamma),
                             TORCHCLIP_FIELD(gradient_dropout),
                             TORCHCLIP_FIELD(gradient_threshold),
                             TORCHCLIP_FIELD(lr_dropout),
                             TORCHCLIP_FIELD(lr_threshold),
                             TORCHCLIP_FIELD(lookahead_k),
                             TORCHCLIP_FIELD(lookahead_alpha),
                             TORCHCLIP_FIELD(relative_limit),
                             TORCHCLIP_FIELD(step_eps),
                             TORCHCLIP_FIELD(growth),
                             TORCHCLIP_FIELD(skip_norm),
                             TORCHCLIP_FIELD(skip_loss),
                             TORCHCLIP_FIELD(skip_window),
                             TORCHCLIP_FIELD(skip_sigma),
                             TORCHCLIP_FIELD(averages),
                             TORCHCLIP_FIELD(ema_warmup)};
#undef TORCHCLIP_FIELD

}  // namespace

bool Modifiers::set(const std::string& name, double value) {
  for (const Field& field : kFields) {
    if (name != field.name) continue;
    this->*field.number = value;
    return true;
  }
  return false;
}

}  // namespace torchclip
