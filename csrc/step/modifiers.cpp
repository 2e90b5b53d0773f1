#include "modifiers.h"

namespace torchclip {

bool Modifiers::set(const std::string& field, double number) {
#define TORCHCLIP_MODIFIER(name, value) \
  if (field == #name) {                 \
    name = number;                      \
    return true;                        \
  }
#include "modifier_fields.h"
#undef TORCHCLIP_MODIFIER
  return false;
}

}  // namespace torchclip
